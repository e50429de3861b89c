//go:build unix

package main

import (
	"bytes"
	"compress/lzw"
	"compress/zlib"
	_ "embed"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/evatool/evatool/internal/img"
)

//go:embed large_peer.py
var largePeer string

// side squared is just below the largest accepted number of pixels.
const side = 13377

// largeFiles are small files of the largest pictures, by kind, and files that
// claim more than they hold.
var largeFiles = []struct {
	name string
	make func() []byte
}{
	{"progressive JPEG, CMYK, header only", func() []byte { return jpegFile(0xC2, 4, emptyScan(4, 0, 0)) }},
	{"progressive JPEG, 490 scans", func() []byte { return jpegFile(0xC2, 3, scans(490, nil)) }},
	{"progressive JPEG, 490 scans of run codes", func() []byte { return jpegFile(0xC2, 3, scans(490, runCodes)) }},
	{"progressive JPEG, averages of all blocks", func() []byte {
		return jpegFile(0xC2, 3, append(emptyScan(3, 0, 0), make([]byte, 3*(side/8+1)*(side/8+1)/8+1)...))
	}},
	{"PNG, 16-bit RGBA, interlaced", func() []byte { return pngFile(16, 6, 8, true) }},
	{"PNG, RGB", func() []byte { return pngFile(8, 2, 3, false) }},
	{"TIFF, 16-bit RGB, deflate", func() []byte { return tiffFile(16, 3, 1) }},
	{"TIFF, 16-bit grey, turned", func() []byte { return tiffFile(16, 1, 6) }},
	{"JPEG, baseline", func() []byte { return jpegFile(0xC0, 3, append(emptyScan(3, 0, 63), make([]byte, 1<<21)...)) }},
	{"GIF, interlaced", gifFile},
	{"BMP, run-length coding", bmpFile},
	{"TIFF, one pixel of a huge tile", hugeTile},
	{"TIFF, 41 MB of lists", tagLists},
	{"WebP, 16 MB of empty chunks", emptyChunks},
}

// runLarge compares our processor seconds and peak memory with PIL's, each file
// in a process of its own.
func runLarge(python, dir string) error {
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "pixels"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Printf("| file of %d x %d pixels | bytes | evatool s | PIL s | evatool MB | PIL MB | crop |\n|---|---|---|---|---|---|---|\n", side, side)
	for i, f := range largeFiles {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, f.make(), 0o644); err != nil {
			return err
		}
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		us, err := measure(exec.Command(self, "-one", path))
		if err != nil {
			return err
		}
		them := measured{out: "-"}
		if python != "" {
			if them, err = measure(exec.Command(python, "-c", largePeer, path)); err != nil {
				return err
			}
		}
		same := "equal"
		if us.out != them.out {
			same = us.out + " against " + them.out
		}
		fmt.Printf("| %s | %d | %.1f | %.1f | %.0f | %.0f | %s |\n", f.name, st.Size(), us.seconds, them.seconds, us.mb, them.mb, same)
	}
	return nil
}

type measured struct {
	seconds, mb float64 // of processor time; at the peak
	out         string
}

func measure(cmd *exec.Cmd) (measured, error) {
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "OPENBLAS_CORETYPE=") })
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return measured{}, fmt.Errorf("%s: %w", cmd, err)
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	m := measured{seconds: float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9}
	_, err = fmt.Sscan(string(out), &m.out, &m.mb)
	return m, err
}

// peak is the peak memory of this process, in MB. (What wait reports includes the
// parent's.)
func peak() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	var kb float64
	fmt.Sscan(line, &kb) // 0 if there is no such file
	return kb / 1024
}

// one runs in the process of one file.
func one(path string) error {
	p, err := img.Open(path)
	if err == nil {
		var c *img.RGB
		if c, err = p.Crop(img.Preprocess{Size: 224}); err == nil {
			fmt.Printf("%08x %.0f\n", crc32.ChecksumIEEE(c.Pix), peak())
			return nil
		}
	}
	fmt.Println("refused", peak())
	return nil
}

func jpegSegment(marker byte, body ...byte) []byte {
	return append([]byte{0xFF, marker, byte((len(body) + 2) >> 8), byte(len(body) + 2)}, body...)
}

// jpegFile has n components, none of them subsampled, all quantizers 1, and
// Huffman tables of two codes: 0 ends a block, 10 a run of 2^14 to 2^15-1.
func jpegFile(sof byte, n int, scans []byte) []byte {
	frame := []byte{8, side >> 8, side & 255, side >> 8, side & 255, byte(n)}
	for i := range n {
		frame = append(frame, byte(i+1), 0x11, 0)
	}
	table := []byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	out := []byte{0xFF, 0xD8}
	out = append(out, jpegSegment(0xDB, append([]byte{0}, bytes.Repeat([]byte{1}, 64)...)...)...)
	out = append(out, jpegSegment(sof, frame...)...)
	out = append(out, jpegSegment(0xC4, append(append([]byte{0}, table...), 0, 1)...)...)
	out = append(out, jpegSegment(0xC4, append(append([]byte{0x10}, table...), 0, 0xE0)...)...)
	return append(append(out, scans...), 0xFF, 0xD9)
}

func emptyScan(n, first, last byte) []byte {
	head := []byte{n}
	for i := range n {
		head = append(head, i+1, 0)
	}
	return jpegSegment(0xDA, append(head, first, last, 0)...)
}

// scans are n scans of a progressive file, those of AC with data.
func scans(n int, data []byte) []byte {
	out := emptyScan(3, 0, 0)
	for i := range n - 1 {
		out = append(out, jpegSegment(0xDA, 1, byte(i%3+1), 0, 1, 63, 0)...)
		out = append(out, data...)
	}
	return out
}

// runCodes are 90 run codes of the greatest length: the bits 10 and 14 ones.
var runCodes = func() []byte {
	return bytes.Repeat([]byte{0xBF, 0xFE}, 90)
}()

func deflated(row func(y int) []byte) []byte {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	for y := range side {
		w.Write(row(y)) // to memory
	}
	w.Close()
	return b.Bytes()
}

func pngFile(depth, kind byte, bytesPerPixel int, interlaced bool) []byte {
	out := []byte("\x89PNG\r\n\x1a\n")
	chunk := func(kind string, body []byte) {
		out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
		at := len(out)
		out = append(append(out, kind...), body...)
		out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[at:]))
	}
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, side), side)
	line := make([]byte, 1+side*bytesPerPixel)
	pixels := func(y int) []byte {
		line[0], line[1] = 1, byte(y)
		return line
	}
	if !interlaced {
		chunk("IHDR", append(head, depth, kind, 0, 0, 0))
		chunk("IDAT", deflated(pixels))
	} else {
		chunk("IHDR", append(head, depth, kind, 0, 0, 1))
		chunk("IDAT", deflated(func(y int) []byte {
			// The passes have as many pixels as the picture, and 15/8 as many rows.
			return append(pixels(y), make([]byte, 15)...)
		}))
	}
	chunk("IEND", nil)
	return out
}

func gifFile() []byte {
	var codes bytes.Buffer
	w := lzw.NewWriter(&codes, lzw.LSB, 8)
	for range side {
		w.Write(make([]byte, side)) // to memory
	}
	w.Close()
	out := append([]byte("GIF89a"), side&255, side>>8, side&255, side>>8, 0x80, 0, 0, 9, 8, 7, 6, 5, 4)
	out = append(out, ',', 0, 0, 0, 0, side&255, side>>8, side&255, side>>8, 0x40, 8)
	for c := range slices.Chunk(codes.Bytes(), 255) {
		out = append(append(out, byte(len(c))), c...)
	}
	return append(out, 0, ';')
}

func bmpFile() []byte {
	out := append([]byte("BM"), make([]byte, 8)...)
	for _, v := range []uint32{54 + 1024, 40, side, side, 8<<16 | 1, 1, 0, 0, 0, 256, 0} {
		out = binary.LittleEndian.AppendUint32(out, v)
	}
	for i := range 256 {
		out = append(out, byte(i), 1, 2, 0)
	}
	for y := range side {
		for n := side; n > 0; n -= 255 {
			out = append(out, byte(min(n, 255)), byte(y))
		}
		out = append(out, 0, 0)
	}
	return append(out, 0, 1)
}

// tiffEntries is a little-endian directory of LONG and, where a list of bytes is
// given, of lists at offsets.
func tiffEntries(entries [][4]uint32) []byte {
	out := append([]byte("II*\x00"), 8, 0, 0, 0)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(entries)))
	for _, e := range entries {
		out = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(out, uint16(e[0])), uint16(e[1]))
		out = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(out, e[2]), e[3])
	}
	return append(out, 0, 0, 0, 0)
}

func tiffFile(bits, samples, orientation uint32) []byte {
	line := make([]byte, int(bits/8*samples)*side)
	data := deflated(func(y int) []byte {
		line[0] = byte(y)
		return line
	})
	photometric := uint32(1)
	if samples == 3 {
		photometric = 2
	}
	const at = 8 + 2 + 12*10 + 4
	depth := [4]uint32{258, 3, 1, bits}
	var lists []byte
	if samples == 3 {
		depth = [4]uint32{258, 3, 3, at}
		lists = []byte{byte(bits), 0, byte(bits), 0, byte(bits), 0}
	}
	head := tiffEntries([][4]uint32{{256, 4, 1, side}, {257, 4, 1, side}, depth, {259, 3, 1, 8}, {262, 3, 1, photometric},
		{273, 4, 1, at + uint32(len(lists))}, {274, 3, 1, orientation}, {277, 3, 1, samples}, {278, 4, 1, side}, {279, 4, 1, uint32(len(data))}})
	return slices.Concat(head, lists, data)
}

func hugeTile() []byte {
	line := make([]byte, side/16*16)
	data := deflated(func(int) []byte { return line })
	const at = 8 + 2 + 12*10 + 4
	head := tiffEntries([][4]uint32{{256, 4, 1, 1}, {257, 4, 1, 1}, {258, 3, 1, 8}, {259, 3, 1, 8}, {262, 3, 1, 1},
		{277, 3, 1, 1}, {322, 4, 1, side / 16 * 16}, {323, 4, 1, side / 16 * 16}, {324, 4, 1, at}, {325, 4, 1, uint32(len(data))}})
	return append(head, data...)
}

func tagLists() []byte {
	const n = 41 << 20
	head := tiffEntries([][4]uint32{{256, 4, 1, 1}, {257, 4, 1, 1}, {258, 1, n, 200}, {273, 1, n, 200}, {279, 1, n, 200}, {320, 1, n, 200}, {324, 1, n, 200}})
	return append(head, make([]byte, n+200)...)
}

func emptyChunks() []byte {
	const n = 2 << 20
	var b bytes.Buffer
	io.WriteString(&b, "RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for range n {
		io.WriteString(&b, "EXIF\x00\x00\x00\x00")
	}
	out := b.Bytes()
	binary.LittleEndian.PutUint32(out[4:], uint32(len(out)-8))
	return out
}
