package torchfile

import (
	"archive/tar"
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"
	"strings"

	"github.com/nlpodyssey/gopickle/types"
)

// The first three pickles of a legacy file (torch/serialization.py).
var legacyMagic, _ = new(big.Int).SetString("1950a86a20f9469cfc6c", 16)

const legacyVersion = 1001

// raw is a file without checksums: legacy and tar.
type raw struct {
	r    io.ReaderAt
	f    *os.File
	size int64
}

// pickle runs the pickle at pos and returns the position after it.
func (f raw) pickle(v *vm, pos int64) (any, int64, error) {
	value, n, err := v.next(bufio.NewReader(io.NewSectionReader(f.r, pos, f.size-pos)))
	return value, pos + n, err
}

// storage finds a storage at pos: the number of its elements in 8 bytes, then the
// elements of size bytes each, always little-endian.
func (f raw) storage(name string, pos, size int64) (b *blob, elems, next int64, err error) {
	var head [8]byte
	if err := fill(f.r, head[:], pos); err != nil || pos+8 > f.size {
		return nil, 0, 0, fmt.Errorf("storage %s: the file ends before it; it is cut off", name)
	}
	pos += 8
	n := int64(binary.LittleEndian.Uint64(head[:]))
	bytes, ok := checkedMul(n, size)
	if !ok || bytes > f.size-pos {
		return nil, 0, 0, fmt.Errorf("storage %s: %d elements of %d bytes, but %d bytes are left; the file is cut off or damaged", name, n, size, f.size-pos)
	}
	return &blob{name: "storage " + name, r: f.r, f: f.f, off: pos, packed: bytes, size: bytes}, n, pos + bytes, nil
}

// openLegacy reads a file of torch < 1.6: magic number, version and machine as
// pickles, then the object, the list of storage keys, and the storages in the
// order of that list.
func openLegacy(f raw) (root any, err error) {
	used := map[string][]*storage{}
	v := &vm{storage: func(id *types.Tuple) (*storage, error) {
		s, key, err := parseStorage(id)
		if err != nil {
			return nil, err
		}
		used[key] = append(used[key], s)
		if id.Len() > 5 {
			return s.view(id.Get(5))
		}
		return s, nil
	}}
	plain := &vm{}
	magic, pos, err := f.pickle(plain, 0)
	if err != nil {
		return nil, err
	}
	if m, ok := magic.(*big.Int); !ok || m.Cmp(legacyMagic) != 0 {
		if _, ok := magic.(*big.Int); ok {
			return nil, fmt.Errorf("magic number %x, but PyTorch files have %x; the file is damaged", magic, legacyMagic)
		}
		return nil, fmt.Errorf("a plain pickle (of type %s), not written by torch.save; save the state dict with torch.save", kind(magic))
	}
	version, pos, err := f.pickle(plain, pos)
	if err != nil {
		return nil, err
	}
	if version != legacyVersion {
		return nil, fmt.Errorf("version %s of the legacy format; want %d", text(version), legacyVersion)
	}
	if _, pos, err = f.pickle(plain, pos); err != nil { // sizes and byte order of the machine; the data is little-endian
		return nil, err
	}
	if root, pos, err = f.pickle(v, pos); err != nil {
		return nil, err
	}
	keys, pos, err := f.pickle(plain, pos)
	if err != nil {
		return nil, err
	}
	list, ok := elements(keys)
	if !ok {
		return nil, fmt.Errorf("the list of storages is a %s; the file is damaged", kind(keys))
	}
	for _, k := range list {
		key := storageKey(k)
		users := used[key]
		if len(users) == 0 {
			return nil, fmt.Errorf("storage %.200q is not used by the pickle, or is stored twice; the file is damaged", key)
		}
		delete(used, key)
		var b *blob
		var n int64
		if b, n, pos, err = f.storage(strconv.Quote(key), pos, users[0].typ.size()); err != nil {
			return nil, err
		}
		for _, s := range users {
			// torch lets tensors of several types share an empty storage.
			if (s.typ.size() != users[0].typ.size() && n > 0) || s.elems != n {
				return nil, fmt.Errorf("storage %.200q: %d elements of %s in the pickle, %d in the file; the file is damaged", key, s.elems, s.typ.name, n)
			}
			s.setBlob(b)
		}
	}
	for key := range used {
		return nil, fmt.Errorf("storage %.200q is missing; the file is cut off", key)
	}
	return root, nil
}

// parseStorage reads a persistent id: ("storage", type, key, location,
// elements); the location (the device) does not matter.
func parseStorage(id *types.Tuple) (*storage, string, error) {
	if id.Len() < 5 || id.Get(0) != "storage" {
		return nil, "", ownf("pickle: persistent id %s is not a storage", text(id))
	}
	typ, ok := id.Get(1).(*storageType)
	n, ok2 := integer(id.Get(4))
	key := storageKey(id.Get(2))
	if !ok || !ok2 || n < 0 || key == "" {
		return nil, "", ownf("pickle: invalid storage: type %s, key %s, %s elements", text(id.Get(1)), text(id.Get(2)), text(id.Get(4)))
	}
	if _, ok := checkedMul(n, typ.size()); !ok {
		return nil, "", ownf("pickle: storage %.200q of %d elements is too large", key, n)
	}
	return &storage{typ: typ, elems: n}, key, nil
}

func storageKey(v any) string {
	switch k := v.(type) {
	case string:
		return k
	case int:
		return strconv.Itoa(k)
	}
	return ""
}

// view is part of a legacy storage; meta is None or (key, offset, elements).
func (s *storage) view(meta any) (*storage, error) {
	if meta == nil {
		return s, nil
	}
	m, ok := elements(meta)
	if !ok || len(m) != 3 {
		return nil, ownf("pickle: invalid storage view %s", text(meta))
	}
	v, err := s.part(m[1], m[2])
	if err != nil {
		return nil, err
	}
	s.views = append(s.views, v)
	return v, nil
}

// part is a run of elements of s.
func (s *storage) part(offset, elems any) (*storage, error) {
	off, ok1 := integer(offset)
	n, ok2 := integer(elems)
	if !ok1 || !ok2 || off < 0 || n < 0 || off > s.elems || n > s.elems-off {
		return nil, ownf("pickle: a view of %s elements at offset %s does not fit a storage of %d", text(elems), text(offset), s.elems)
	}
	return &storage{typ: s.typ, elems: n, base: s.base + off*s.typ.size(), blob: s.blob}, nil
}

// setBlob sets where the storage lies, once that is known.
func (s *storage) setBlob(b *blob) {
	s.blob = b
	for _, v := range s.views {
		v.blob = b
	}
}

// openTar reads a file of about torch < 0.1.13: a tar archive with the members
// storages, tensors and pickle.
func openTar(f raw) (any, error) {
	members, err := tarMembers(f)
	if err != nil {
		return nil, err
	}
	objects := map[string]any{}
	if err := tarStorages(members["storages"], objects); err != nil {
		return nil, fmt.Errorf("member storages: %w", err)
	}
	if err := tarTensors(members["tensors"], objects); err != nil {
		return nil, fmt.Errorf("member tensors: %w", err)
	}
	v := &vm{object: func(id any) (any, error) {
		if o := objects[storageKey(id)]; o != nil {
			return o, nil
		}
		return nil, ownf("pickle: no tensor or storage %s; the file is damaged", text(id))
	}}
	root, _, err := members["pickle"].pickle(v, 0)
	return root, err
}

// tarMembers finds the three members.
func tarMembers(f raw) (map[string]raw, error) {
	sr := io.NewSectionReader(f.r, 0, f.size)
	tr := tar.NewReader(sr)
	found := map[string]raw{}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("tar: %w", err)
		}
		name := strings.TrimPrefix(h.Name, "./")
		if name != "storages" && name != "tensors" && name != "pickle" {
			continue
		}
		pos, err := sr.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		sparse := h.Typeflag != tar.TypeReg
		for k := range h.PAXRecords {
			sparse = sparse || strings.HasPrefix(k, "GNU.sparse.")
		}
		if _, twice := found[name]; twice || sparse || h.Size < 0 || h.Size > f.size-pos {
			return nil, fmt.Errorf("tar member %s appears twice, is not a plain file or reaches beyond the end; the file is damaged", name)
		}
		found[name] = raw{r: io.NewSectionReader(f.r, pos, h.Size), size: h.Size}
	}
	for _, name := range []string{"storages", "tensors", "pickle"} {
		if _, ok := found[name]; !ok {
			return nil, fmt.Errorf("a tar archive without the member %s is not a PyTorch file; give the checkpoint itself", name)
		}
	}
	return found, nil
}

// tarObjects reads a count and as many objects: each a pickle of key, place and
// type, and after it what read reads. It returns the position after them.
func tarObjects(f raw, objects map[string]any, what string, read func(header []any, key string, pos int64) (object any, next int64, err error)) (int64, error) {
	v := &vm{}
	count, pos, err := f.pickle(v, 0)
	if err != nil {
		return 0, err
	}
	n, ok := integer(count)
	if !ok {
		return 0, fmt.Errorf("the number of %ss is %s", what, text(count))
	}
	var head any
	for range n {
		if head, pos, err = f.pickle(v, pos); err != nil {
			return 0, err
		}
		h, ok := elements(head)
		if !ok || len(h) != 3 {
			return 0, fmt.Errorf("invalid %s header %s", what, text(head))
		}
		key := storageKey(h[0])
		if key == "" || objects[key] != nil {
			return 0, fmt.Errorf("invalid %s header %s", what, text(head))
		}
		if objects[key], pos, err = read(h, key, pos); err != nil {
			return 0, err
		}
	}
	return pos, nil
}

// tarStorages reads the member storages: key, location and type followed by the
// elements, then the list of views.
func tarStorages(f raw, objects map[string]any) error {
	pos, err := tarObjects(f, objects, "storage", func(h []any, key string, pos int64) (any, int64, error) {
		typ, ok := h[2].(*storageType)
		if !ok {
			return nil, 0, fmt.Errorf("storage %.200q has type %s", key, text(h[2]))
		}
		b, n, next, err := f.storage(strconv.Quote(key), pos, typ.size())
		return &storage{typ: typ, elems: n, blob: b}, next, err
	})
	if err != nil {
		return err
	}
	views, _, err := f.pickle(&vm{}, pos)
	if err != nil {
		return err
	}
	list, ok := elements(views)
	if !ok {
		return fmt.Errorf("the list of views is a %s", kind(views))
	}
	for _, x := range list {
		w, ok := elements(x)
		if !ok || len(w) != 4 {
			return fmt.Errorf("invalid storage view %s", text(x))
		}
		root, ok := objects[storageKey(w[1])].(*storage)
		key := storageKey(w[0])
		if !ok || key == "" || objects[key] != nil {
			return fmt.Errorf("invalid storage view %s", text(x))
		}
		if objects[key], err = root.part(w[2], w[3]); err != nil {
			return err
		}
	}
	return nil
}

// tarTensors reads the member tensors: key, storage and type, followed by the
// number of dimensions (8 bytes, of which 4 count), sizes, strides and offset.
func tarTensors(f raw, objects map[string]any) error {
	_, err := tarObjects(f, objects, "tensor", func(h []any, key string, pos int64) (any, int64, error) {
		s, ok := objects[storageKey(h[1])].(*storage)
		if !ok {
			return nil, 0, fmt.Errorf("tensor %.200q: no storage %s", key, text(h[1]))
		}
		var dims [8]byte
		if err := fill(f.r, dims[:], pos); err != nil {
			return nil, 0, err
		}
		d := int64(int32(binary.LittleEndian.Uint32(dims[:])))
		if d < 0 || d > maxDims {
			return nil, 0, fmt.Errorf("tensor %.200q has %d dimensions; want 0 to %d", key, d, maxDims)
		}
		body := make([]byte, 8*(2*d+1))
		if err := fill(f.r, body, pos+8); err != nil {
			return nil, 0, err
		}
		nums := make(types.Tuple, 2*d+1)
		for i := range nums {
			nums[i] = int(binary.LittleEndian.Uint64(body[8*i:]))
		}
		size, stride := nums[:d], nums[d:2*d]
		t, err := newTensor(s, s.typ.elem, nums[2*d], &size, &stride)
		if err != nil {
			return nil, 0, fmt.Errorf("tensor %.200q: %w", key, err)
		}
		return t, pos + 8 + int64(len(body)), nil
	})
	return err
}
