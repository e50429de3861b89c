package torchfile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Limits and signatures of the zip format (PKWARE APPNOTE 6.3.10).
const (
	maxDirectory = 16 << 20 // bytes of the central directory
	sigLocal     = "PK\x03\x04"
	sigCentral   = "PK\x01\x02"
	sigEnd       = "PK\x05\x06"
	sigEnd64     = "PK\x06\x06"
	sigLocator64 = "PK\x06\x07"
	lenLocal     = 30
	lenCentral   = 46
	lenEnd       = 22
	lenEnd64     = 56
	lenLocator64 = 20
)

// archive is the directory of a zip file. When it is opened, members are checked
// against their local headers and against each other, so a false directory is
// found before anything is read.
type archive struct {
	members map[string]*blob
	order   []string
}

// openZip reads the directory of a zip file of size bytes.
func openZip(r io.ReaderAt, f *os.File, size int64) (*archive, error) {
	dirOff, dirLen, count, err := findDirectory(r, size)
	if err != nil {
		return nil, err
	}
	dir := make([]byte, dirLen)
	if err := fill(r, dir, dirOff); err != nil {
		return nil, err
	}
	a := &archive{members: make(map[string]*blob, min(count, uint64(dirLen/lenCentral)))}
	var runs []run
	for n := uint64(0); n < count; n++ {
		m, local, rest, err := parseCentral(dir)
		if err != nil {
			return nil, fmt.Errorf("zip directory, entry %d: %w", n, err)
		}
		dir = rest
		if a.members[m.name] != nil {
			return nil, fmt.Errorf("zip directory: %.200q appears twice", m.name)
		}
		m.r, m.f = r, f
		if err := m.locate(local, dirOff); err != nil {
			return nil, fmt.Errorf("zip member %.200q: %w", m.name, err)
		}
		a.members[m.name] = m
		a.order = append(a.order, m.name)
		runs = append(runs, run{local, m.off + m.packed, m.name})
	}
	if len(dir) > 0 {
		return nil, fmt.Errorf("zip directory: %d bytes after its %d entries", len(dir), count)
	}
	slices.SortFunc(runs, func(x, y run) int { return cmp.Compare(x.from, y.from) })
	for i := 1; i < len(runs); i++ {
		if runs[i].from < runs[i-1].to {
			return nil, fmt.Errorf("zip members %.200q and %.200q overlap", runs[i-1].name, runs[i].name)
		}
	}
	return a, nil
}

// run is the part of the file that a member takes.
type run struct {
	from, to int64
	name     string
}

var le = binary.LittleEndian

// findDirectory finds the central directory from the end of the file.
func findDirectory(r io.ReaderAt, size int64) (off, n int64, count uint64, err error) {
	tail := make([]byte, min(size, lenEnd+0xffff))
	if err := fill(r, tail, size-int64(len(tail))); err != nil {
		return 0, 0, 0, err
	}
	at := -1
	for i := len(tail) - lenEnd; i >= 0; i-- {
		if string(tail[i:i+4]) == sigEnd && i+lenEnd+int(le.Uint16(tail[i+20:])) == len(tail) {
			at = i
			break
		}
	}
	if at < 0 {
		return 0, 0, 0, fmt.Errorf("no zip directory at the end; the file is cut off: download it again")
	}
	e := tail[at:]
	end := size - int64(len(tail)) + int64(at)
	count, length, offset := uint64(le.Uint16(e[10:])), uint64(le.Uint32(e[12:])), uint64(le.Uint32(e[16:]))
	if at >= lenLocator64 && string(tail[at-lenLocator64:at-lenLocator64+4]) == sigLocator64 {
		at64 := le.Uint64(tail[at-lenLocator64+8:])
		if size < lenEnd64 || at64 > uint64(size-lenEnd64) {
			return 0, 0, 0, fmt.Errorf("zip64 directory at byte %d of a file of %d", at64, size)
		}
		var e64 [lenEnd64]byte
		if err := fill(r, e64[:], int64(at64)); err != nil {
			return 0, 0, 0, err
		}
		if string(e64[:4]) != sigEnd64 {
			return 0, 0, 0, fmt.Errorf("no zip64 directory at byte %d", at64)
		}
		count, length, offset = le.Uint64(e64[32:]), le.Uint64(e64[40:]), le.Uint64(e64[48:])
		end = int64(at64)
	}
	switch {
	case length > maxDirectory:
		return 0, 0, 0, fmt.Errorf("zip directory of %d bytes, expected at most %d", length, maxDirectory)
	case offset > uint64(end) || length != uint64(end)-offset:
		return 0, 0, 0, fmt.Errorf("zip directory of %d bytes at byte %d does not end at byte %d; the file is damaged", length, offset, end)
	case count > length/lenCentral:
		return 0, 0, 0, fmt.Errorf("zip directory of %d bytes for %d entries", length, count)
	}
	return int64(offset), int64(length), count, nil
}

// parseCentral reads one entry of the directory. It returns the member without its
// place, the offset of its local header, and what follows the entry.
func parseCentral(dir []byte) (m *blob, local int64, rest []byte, err error) {
	if len(dir) < lenCentral || string(dir[:4]) != sigCentral {
		return nil, 0, nil, fmt.Errorf("no entry where one should be")
	}
	nameLen, extraLen, commentLen := int(le.Uint16(dir[28:])), int(le.Uint16(dir[30:])), int(le.Uint16(dir[32:]))
	if len(dir) < lenCentral+nameLen+extraLen+commentLen {
		return nil, 0, nil, fmt.Errorf("cut off")
	}
	name := string(dir[lenCentral : lenCentral+nameLen])
	extra := dir[lenCentral+nameLen : lenCentral+nameLen+extraLen]
	rest = dir[lenCentral+nameLen+extraLen+commentLen:]
	flags, method := le.Uint16(dir[8:]), le.Uint16(dir[10:])
	// torch writes the checksum 0 if told to compute none.
	m = &blob{name: name, sum: le.Uint32(dir[16:]), deflated: method == 8}
	m.hasSum = m.sum != 0
	switch {
	case flags&1 != 0:
		return nil, 0, nil, fmt.Errorf("%.200q is encrypted", name)
	case method != 0 && method != 8:
		return nil, 0, nil, fmt.Errorf("%.200q: compression method %d; want stored or deflated", name, method)
	}
	fields := []uint64{uint64(le.Uint32(dir[24:])), uint64(le.Uint32(dir[20:])), uint64(le.Uint32(dir[42:]))}
	if err := zip64(extra, fields); err != nil {
		return nil, 0, nil, fmt.Errorf("%.200q: %w", name, err)
	}
	for _, v := range fields {
		if v > 1<<62 {
			return nil, 0, nil, fmt.Errorf("%.200q: size or offset %d is too large", name, v)
		}
	}
	m.size, m.packed, local = int64(fields[0]), int64(fields[1]), int64(fields[2])
	if !m.deflated && m.size != m.packed {
		return nil, 0, nil, fmt.Errorf("%.200q is stored uncompressed, but its %d bytes become %d", name, m.packed, m.size)
	}
	return m, local, rest, nil
}

// zip64 replaces the fields that are all ones by those of the zip64 extra field,
// which has exactly these, in order.
func zip64(extra []byte, fields []uint64) error {
	for len(extra) >= 4 {
		id, n := le.Uint16(extra), int(le.Uint16(extra[2:]))
		if n > len(extra)-4 {
			return nil // torch pads local headers with a field of its own
		}
		body := extra[4 : 4+n]
		extra = extra[4+n:]
		if id != 1 {
			continue
		}
		for i, v := range fields {
			if v != 0xffffffff {
				continue
			}
			if len(body) < 8 {
				return fmt.Errorf("the zip64 field is too short")
			}
			fields[i], body = le.Uint64(body), body[8:]
		}
		return nil
	}
	return nil
}

// locate finds a member's bytes through its local header, which it compares with
// the directory.
func (b *blob) locate(local, dirOff int64) error {
	if local > dirOff-lenLocal {
		return fmt.Errorf("local header at byte %d, beyond the members", local)
	}
	var h [lenLocal]byte
	if err := fill(b.r, h[:], local); err != nil {
		return err
	}
	if string(h[:4]) != sigLocal {
		return fmt.Errorf("no local header at byte %d", local)
	}
	nameLen, extraLen := int64(le.Uint16(h[26:])), int64(le.Uint16(h[28:]))
	b.off = local + lenLocal + nameLen + extraLen
	if b.off > dirOff || b.packed > dirOff-b.off {
		return fmt.Errorf("%d bytes at byte %d reach beyond the members; the file is damaged", b.packed, b.off)
	}
	tail := make([]byte, nameLen+extraLen)
	if err := fill(b.r, tail, local+lenLocal); err != nil {
		return err
	}
	if string(tail[:nameLen]) != b.name {
		return fmt.Errorf("its local header has the name %.100q", tail[:nameLen])
	}
	if (le.Uint16(h[8:]) == 8) != b.deflated {
		return fmt.Errorf("its local header has a different compression method")
	}
	if le.Uint16(h[6:])&8 != 0 { // sizes and checksum follow the bytes instead
		return nil
	}
	fields := []uint64{uint64(le.Uint32(h[22:])), uint64(le.Uint32(h[18:]))}
	if err := zip64(tail[nameLen:], fields); err != nil {
		return err
	}
	if fields[0] != uint64(b.size) || fields[1] != uint64(b.packed) || le.Uint32(h[14:]) != b.sum {
		return fmt.Errorf("its local header has a different size or checksum")
	}
	return nil
}

// fill reads all of p at off.
func fill(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		return truncated(err)
	}
	return nil
}

// root is the folder with the archive's records: the one that has data.pkl.
func (a *archive) root() (string, error) {
	var found []string
	for _, name := range a.order {
		dir, base := cutLast(name)
		if base == "data.pkl" && strings.Count(dir, "/") <= 1 {
			found = append(found, dir)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", fmt.Errorf("%d members are named data.pkl: %.200q and %.200q", len(found), found[0]+"data.pkl", found[1]+"data.pkl")
	}
	for _, other := range []struct{ member, what string }{
		{"archive_format", "an archive of torch.export; save model.state_dict() with torch.save instead"},
		{"model.json", "a TorchScript archive of torch 1.3 or earlier; load and save it with a newer torch"},
	} {
		for _, name := range a.order {
			if _, base := cutLast(name); base == other.member {
				return "", errors.New(other.what)
			}
		}
	}
	return "", fmt.Errorf("a zip archive without data.pkl is not a PyTorch file; give the checkpoint itself")
}

// cutLast splits a member name after its last slash.
func cutLast(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	return name[:i+1], name[i+1:]
}

// isScript reports whether the archive is a TorchScript one.
func (a *archive) isScript(root string) bool {
	if a.members[root+"constants.pkl"] != nil {
		return true
	}
	return slices.ContainsFunc(a.order, func(n string) bool { return strings.HasPrefix(n, root+"code/") })
}

// bigEndian reads the byteorder record, which torch < 2.1 does not write.
func (a *archive) bigEndian(root string) (bool, error) {
	m := a.members[root+"byteorder"]
	if m == nil {
		return false, nil
	}
	b, err := m.bytes(64)
	if err != nil {
		return false, err
	}
	switch order := string(bytes.TrimSpace(b)); order {
	case "little":
		return false, nil
	case "big":
		return true, nil
	default:
		return false, fmt.Errorf("byteorder %.200q; want little or big", order)
	}
}
