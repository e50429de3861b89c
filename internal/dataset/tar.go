package dataset

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/evatool/evatool/internal/fault"
)

// member is a regular file in a tar.
type member struct {
	name   string
	header int64 // offset of its first header block
	off    int64 // offset of its bytes
	size   int64
}

// end is the offset of the block after the member.
func (m member) end() int64 { return (m.off + m.size + 511) &^ 511 }

// scanTar reads the headers of a tar and calls each for every regular file in
// it, in order. A tar that ends early is an error with the offset.
func scanTar(ctx context.Context, st storage, name string, each func(member) error) error {
	size, dir, err := st.stat(ctx, name)
	if err != nil {
		return explain(name, "a tar", err)
	}
	if dir {
		return fault.Inputf("%s: is a directory; give a tar", fault.Name(name))
	}
	sec := &section{ctx: ctx, st: st, name: name, size: size, window: st.window()}
	var magic [4]byte
	n, _ := sec.ReadAt(magic[:], 0)
	if kind := compressed(magic[:n]); kind != "" {
		return fault.Inputf("%s: is %s-compressed, which allows no random access; decompress it once and give the .tar", fault.Name(name), kind)
	}
	r := tar.NewReader(sec)
	at := int64(0) // the next header
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return endOfTar(sec, name, at)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return fault.Inputf("%s: truncated: the file ends at offset %d inside the entry at offset %d; copy it again", fault.Name(name), size, at)
			}
			var kind *fault.Error
			if errors.As(err, &kind) {
				return err
			}
			return fault.Inputf("%s: not a tar header at offset %d (%v); give an uncompressed tar", fault.Name(name), at, err)
		}
		off, _ := sec.Seek(0, io.SeekCurrent)
		m := member{name: path.Clean(h.Name), header: at, off: off, size: bytesBehind(h)}
		if sparse(h) {
			return fault.Inputf("%s: %s at offset %d is stored sparse; write the tar again without --sparse", fault.Name(name), fault.Name(h.Name), at)
		}
		if m.size > size-m.off { // the sum may not be a number
			return fault.Inputf("%s: truncated: the file ends at offset %d, but %s at offset %d says that it has %d bytes; copy it again", fault.Name(name), size, fault.Name(h.Name), at, m.size)
		}
		if regular(h) {
			if err := each(m); err != nil {
				return err
			}
		}
		at = m.end()
	}
}

// regular says that an entry is a file; TypeCont, too, as Python's tarfile has it.
func regular(h *tar.Header) bool { return h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont }

// bytesBehind is how many bytes follow an entry's header. A link may have a size
// without them, and a kind that is not known has them.
func bytesBehind(h *tar.Header) int64 {
	switch h.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return 0
	}
	return h.Size
}

// sparse says that an entry's bytes are not one after the other.
func sparse(h *tar.Header) bool {
	return h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != ""
}

// endOfTar checks the zero block that ends a tar, without which a cut file
// looks whole, and that nothing follows it.
func endOfTar(sec *section, name string, at int64) error {
	if at+512 > sec.size {
		return fault.Inputf("%s: truncated: the file ends at offset %d without the end-of-archive block; copy it again", fault.Name(name), sec.size)
	}
	for ; at < sec.size; at += 64 << 10 {
		tail := make([]byte, min(sec.size-at, 64<<10))
		if _, err := sec.ReadAt(tail, at); err != nil {
			return err
		}
		for i, b := range tail {
			if b != 0 {
				return fault.Inputf("%s: data after the end-of-archive block, at offset %d; two tars in one file must be split", fault.Name(name), at+int64(i))
			}
		}
	}
	return nil
}

func compressed(magic []byte) string {
	for prefix, kind := range map[string]string{"\x1f\x8b": "gzip", "BZh": "bzip2", "\xfd7zX": "xz", "\x28\xb5\x2f\xfd": "zstd"} {
		if strings.HasPrefix(string(magic), prefix) {
			return kind
		}
	}
	return ""
}

// splitKey splits a member's name as WebDataset does: the key ends at the first
// dot of the base name, the rest is the extension in lower case. Names without
// one, and WebDataset's own __meta__ files, have no key. Keys are in Unicode's
// composed form: macOS decomposes some of the names in an archive.
func splitKey(name string) (key, ext string, ok bool) {
	dir, base := path.Split(name)
	stem, ext, found := strings.Cut(base, ".")
	if !found || stem == "" || ext == "" || metaName.MatchString(name) {
		return "", "", false
	}
	return norm.NFC.String(dir + stem), strings.ToLower(ext), true
}

var metaName = regexp.MustCompile(`^__[^/]*__($|/)`)

var imageExtensions = map[string]bool{
	"jpg": true, "jpeg": true, "png": true, "webp": true, "bmp": true, "ppm": true, "pgm": true, "tif": true, "tiff": true, "gif": true,
}

// isImage looks at the last part of an extension, so img.jpg is one too.
func isImage(ext string) bool { return imageExtensions[ext[strings.LastIndexByte(ext, '.')+1:]] }

// sample is a run of members with one key: its place in its tar.
type sample struct {
	tar  int32
	size int32
	off  int64
}

// maxSample bounds the members of one key together.
const maxSample = 1<<31 - 1

// group is what the members of one tar are as samples.
type group struct {
	samples []sample
	skipped int   // keys without an image
	sidecar bool  // some image has a caption, label or other file beside it
	twice   error // an extension occurs twice under a key
	split   error // the members of a key are not adjacent
}

// check is the error about split keys and about repeated names, which matter
// only when the names are keys.
func (g group) check(kind Kind) error {
	if g.split == nil && (g.sidecar || kind == WebDataset) {
		return g.twice
	}
	return g.split
}

// groupSamples makes samples out of a tar's members.
func groupSamples(members []member, tarName string, tarIndex int) (g group, err error) {
	var key string
	var first member // of the key
	var to int64
	seen := map[string]bool{}
	images := 0
	type run struct {
		first member
		image bool
	}
	runs := map[string]run{} // of the keys so far
	flush := func() error {
		if key == "" {
			return nil
		}
		from := first.header
		if before, again := runs[key]; !again {
			runs[key] = run{first, images > 0}
		} else if before.image != (images > 0) && g.split == nil {
			g.split = fault.Inputf("%s: the members of the key %s are not adjacent: %s is at offset %d, %s at offset %d; WebDataset's readers take them for two samples; pack the files again in the order of their names (tar --sort=name)",
				fault.Name(tarName), fault.Name(key), fault.Name(before.first.name), before.first.header, fault.Name(first.name), from)
		}
		switch {
		case images == 0:
			g.skipped++
		case to-from > maxSample:
			return fault.Inputf("%s: sample %s at offset %d has %d bytes; at most %d can be read", fault.Name(tarName), quoted(key), from, to-from, maxSample)
		default:
			g.samples = append(g.samples, sample{int32(tarIndex), int32(to - from), from})
			g.sidecar = g.sidecar || len(seen) > images
		}
		return nil
	}
	for _, m := range members {
		k, ext, ok := splitKey(m.name)
		if !ok {
			continue
		}
		if k != key {
			if err := flush(); err != nil {
				return g, err
			}
			key, first, images = k, m, 0
			clear(seen)
		}
		if seen[ext] && g.twice == nil {
			g.twice = fault.Inputf("%s: %s occurs twice in a row, the second at offset %d; a key may have each extension once", fault.Name(tarName), fault.Name(m.name), m.header)
		}
		if isImage(ext) && !seen[ext] {
			images++
		}
		seen[ext] = true
		to = m.end()
	}
	return g, flush()
}

// unpack lists the members of a sample's bytes; data is a part of span.
func unpack(span []byte, each func(ext string, data []byte) error) (key string, err error) {
	in := bytes.NewReader(span)
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return key, nil
		}
		at := int64(len(span) - in.Len())
		if err != nil || at+bytesBehind(h) > int64(len(span)) {
			return key, fmt.Errorf("not the tar entries that were indexed; %w", errChanged)
		}
		k, ext, ok := splitKey(path.Clean(h.Name))
		if !ok || !regular(h) {
			continue
		}
		key = k
		if err := each(ext, span[at:at+h.Size]); err != nil {
			return key, err
		}
	}
}
