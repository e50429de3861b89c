//go:build cgo

package pjrt

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/internal/usercache"
)

// cacheBytes bounds the folder of compiled programs; the least recently used go first.
const cacheBytes = 2 << 30

// cacheMagic begins a cached program. The SHA-256 of its key and the program
// follows, then the program: under another key an entry counts as damaged.
const cacheMagic = "evatool program 2\n"

func checksum(key string, body []byte) []byte {
	h := sha256.New()
	io.WriteString(h, key+"\n")
	h.Write(body)
	return h.Sum(nil)
}

// cache keeps compiled programs on disk. Any failure of it only means that
// the program is compiled again.
type cache struct {
	dir          string
	salt         []byte // what the machine code depends on besides the program
	max          int64
	log          *slog.Logger
	hits, misses atomic.Int64
}

// openCache opens the folder for a client of a plugin; nil when there is to be no
// cache.
func openCache(o Options, p *Plugin) *cache {
	dir, log := o.Cache, o.Log
	if dir == "off" {
		return nil
	}
	if dir == "" {
		folder, err := usercache.Compiled.Folder()
		if err != nil {
			log.Debug("no compile cache", "reason", err)
			return nil
		}
		dir = folder
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		log.Debug("no compile cache", "reason", err)
		return nil
	}
	id, err := fileID(p.path)
	if err != nil {
		log.Debug("no compile cache", "reason", err)
		return nil
	}
	threads := os.Getenv("NPROC") // what XLA goes by
	if o.Threads > 0 {
		threads = strconv.Itoa(o.Threads)
	}
	// Code for a CPU uses what that CPU has.
	salt := strings.Join([]string{p.Kind, p.Version, id, os.Getenv("XLA_FLAGS"), threads,
		runtime.GOARCH, cpuModel(), gpuModel(p.Kind), p.libraries}, "\x00")
	return &cache{dir: dir, salt: []byte(salt), max: cacheBytes, log: log}
}

// fileID identifies the contents of a plugin: the linker's build id, which is
// a hash of them, or else a hash made here.
func fileID(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if e, err := elf.NewFile(f); err == nil {
		if s := e.Section(".note.gnu.build-id"); s != nil && s.Size < 1024 {
			if id, err := s.Data(); err == nil {
				return hex.EncodeToString(id), nil
			}
		}
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// cpuModel names the CPU and its instruction sets.
func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	var model []string
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			switch key = strings.TrimSpace(key); key {
			case "model name", "flags", "Features":
				model = append(model, strings.TrimSpace(value))
			case "processor":
				if len(model) > 0 {
					return strings.Join(model, " ")
				}
			}
		}
	}
	return strings.Join(model, " ")
}

// gpuModel names the GPUs and their driver.
func gpuModel(kind string) string {
	if kind != plugins.CUDA {
		return ""
	}
	files, _ := filepath.Glob("/proc/driver/nvidia/gpus/*/information")
	text, _ := os.ReadFile("/proc/driver/nvidia/version")
	for _, f := range files {
		data, _ := os.ReadFile(f)
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(line, "Model:") {
				text = append(text, line...)
			}
		}
	}
	return string(text)
}

func (c *cache) key(program, options []byte) string {
	h := sha256.New()
	for _, part := range [][]byte{c.salt, program, options} {
		fmt.Fprintf(h, "%d\n", len(part))
		h.Write(part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (c *cache) path(key string) string { return filepath.Join(c.dir, key+".xla") }

// get returns the program, or nil when there is none that can be trusted.
// Anything else in its place is removed, or ignored if it cannot be.
func (c *cache) get(key string) []byte {
	data, err := readEntry(c.path(key), c.max)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, errForeign) {
		c.log.Debug("cached program ignored", "file", c.path(key), "reason", err)
		return nil
	}
	if err != nil {
		c.drop(key, err)
		return nil
	}
	sum, ok := bytes.CutPrefix(data, []byte(cacheMagic))
	if !ok || len(sum) <= sha256.Size {
		c.drop(key, errors.New("not a compiled program of this version"))
		return nil
	}
	body := sum[sha256.Size:]
	if !bytes.Equal(checksum(key, body), sum[:sha256.Size]) {
		c.drop(key, errors.New("its checksum is wrong"))
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(c.path(key), now, now) // used: now the last to go
	return body
}

// errForeign is for an entry of another user: the code in it would run as this
// one. It may be good for its owner, so it stays.
var errForeign = errors.New("it belongs to another user")

// readEntry reads a plain file of this user (or of root) of most bytes at most.
// It never blocks, whatever lies at path.
func readEntry(path string, most int64) ([]byte, error) {
	check := func(st fs.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("not a plain file (%s)", st.Mode().Type())
		}
		if own, ok := st.Sys().(*syscall.Stat_t); ok && own.Uid != 0 && int(own.Uid) != os.Geteuid() {
			return errForeign
		}
		if st.Size() > most {
			return fmt.Errorf("%d bytes is too large", st.Size())
		}
		return nil
	}
	if err := check(os.Lstat(path)); err != nil {
		return nil, err
	}
	// It may be another by now.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err := check(st, err); err != nil {
		return nil, err
	}
	data := make([]byte, st.Size())
	_, err = io.ReadFull(f, data)
	return data, err
}

// drop removes a damaged entry.
func (c *cache) drop(key string, why error) {
	err := os.Remove(c.path(key))
	c.log.Debug("cached program dropped", "file", c.path(key), "reason", why, "removed", err == nil)
}

// put stores a program; two processes that do so at once leave a whole file.
func (c *cache) put(key string, body []byte) {
	err := func() error {
		f, err := atomicfile.Create(c.path(key))
		if err != nil {
			return err
		}
		defer f.Discard()
		for _, part := range [][]byte{[]byte(cacheMagic), checksum(key, body), body} {
			if _, err := f.Write(part); err != nil {
				return err
			}
		}
		return f.Commit()
	}()
	if err != nil {
		c.log.Debug("compiled program not cached", "reason", err)
		return
	}
	c.trim()
}

// trim removes the least recently used programs above the bound.
func (c *cache) trim() {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !strings.HasSuffix(e.Name(), ".xla") {
			continue
		}
		files = append(files, info)
		total += info.Size()
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files {
		if total <= c.max {
			return
		}
		if os.Remove(filepath.Join(c.dir, f.Name())) == nil {
			total -= f.Size()
		}
	}
}
