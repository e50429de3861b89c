package img

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// jpegFiles are all JPEGs of testdata and the probes, by name.
func jpegFiles(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, pattern := range []string{fixtures + "/images/*.jpg", fixtures + "/generated/*.jpg", "probe/*.jpg"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			files[p] = b
		}
	}
	return files
}

// TestLibraries compares every libjpeg-turbo that is here with the decoder in
// Go, byte by byte. A library that exact refuses is too old and not compared.
func TestLibraries(t *testing.T) {
	found := 0
	for _, open := range openers {
		l := open()
		if l == nil || !l.exact() {
			continue
		}
		found++
		t.Run(l.name, func(t *testing.T) {
			decoded := 0
			for name, data := range jpegFiles(t) {
				want, err := DecodeGo(data)
				got := l.decode(data)
				if got == nil {
					continue // handed over to the decoder in Go
				}
				decoded++
				if err != nil {
					t.Errorf("%s: the library decodes it, the decoder in Go says %v", name, err)
				} else if got.Mode != want.Mode || got.W != want.W || got.H != want.H || !bytes.Equal(got.Pix, want.Pix) {
					t.Errorf("%s: pixels differ", name)
				}
			}
			if decoded < 11 {
				t.Errorf("the library decoded %d files, want at least 11", decoded)
			}
		})
	}
	t.Logf("%d libraries here; %s decodes", found, JPEGDecoder())
}

// TestLibraryErrors wants a refusal, and no crash, of what is not a JPEG.
func TestLibraryErrors(t *testing.T) {
	good, err := os.ReadFile("probe/420.jpg")
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	copy(bad[len(bad)/2:], "\xff\xc3\xff\xc3")
	for _, open := range openers {
		l := open()
		if l == nil {
			continue
		}
		for name, data := range map[string][]byte{"truncated": good[:len(good)*3/4], "header only": good[:30], "two bytes": good[:2], "damaged": bad, "text": []byte("\xff\xd8\xffnothing")} {
			if im := l.decode(data); im != nil {
				t.Errorf("%s: %s is decoded as %d x %d", l.name, name, im.W, im.H)
			}
		}
	}
}

// TestLibraryConcurrent decodes from many goroutines, with garbage collection
// and errors in between.
func TestLibraryConcurrent(t *testing.T) {
	for _, open := range openers {
		l := open()
		if l == nil {
			continue
		}
		files := jpegFiles(t)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for name, data := range files {
					want, err := DecodeGo(data)
					l.decode(data[:len(data)/2])
					runtime.GC()
					if got := l.decode(data); got != nil && (err != nil || !bytes.Equal(got.Pix, want.Pix)) {
						t.Errorf("%s: %s differs", l.name, name)
					}
				}
			})
		}
		wg.Wait()
	}
}

// scanStarts are the offsets of the SOS markers and of the end marker.
func scanStarts(data []byte) []int {
	var starts []int
	for i := 0; i+1 < len(data); i++ {
		if data[i] == 0xFF && (data[i+1] == mSOS || data[i+1] == mEOI) {
			starts = append(starts, i)
		}
	}
	return starts
}

// TestSmoothing drops scans of progressive files, whole or in part; libjpeg
// then guesses what is missing, and so does the decoder in Go, equally.
func TestSmoothing(t *testing.T) {
	var l *library
	for _, open := range openers {
		if l = open(); l != nil {
			break
		}
	}
	if l == nil || !l.exact() {
		t.Skip("no library to compare with")
	}
	compared := 0
	for name, data := range jpegFiles(t) {
		if !bytes.Contains(data, []byte{0xFF, mSOF2, 0, 17}) {
			continue
		}
		starts := scanStarts(data)
		for i, at := range starts[1:] {
			// Tables may stand before the scan; cutting them with it does no harm.
			end := at
			if i%3 == 2 {
				end = (starts[i] + at) / 2 // no end of the data: a warning
			}
			cut := append(bytes.Clone(data[:end]), 0xFF, mEOI)
			got := l.decode(cut)
			want, err := DecodeGo(cut)
			if got == nil {
				continue
			}
			compared++
			if err != nil || !bytes.Equal(got.Pix, want.Pix) {
				t.Errorf("%s after %d scans differs (%v)", name, i+1, err)
			}
		}
	}
	if compared < 40 {
		t.Errorf("%d files compared, want at least 40", compared)
	}
}
