// Package usercache lists the caches that evatool keeps in the user's cache
// folder. Their contents can be made again: without them, commands only take
// longer.
package usercache

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
)

// Cache is one of the caches.
type Cache struct {
	Name  string `json:"name"`
	Holds string `json:"holds"`

	ext string // of its files
}

// The caches.
var (
	Compiled    = Cache{"compiled", "programs compiled for a backend", ".xla"}
	Classifiers = Cache{"classifiers", "class vectors of zero-shot evaluations", ".safetensors"}
	Counts      = Cache{"counts", "sample counts of tars that do not state them", ".json"}
	Features    = Cache{"features", "image features of probes", ".safetensors"}
)

// All lists the caches.
var All = []Cache{Compiled, Classifiers, Counts, Features}

// Base is evatool's folder in the user's cache folder.
func Base() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fault.Envf("no cache folder: %w; set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(base, "evatool"), nil
}

// Folder is the cache's folder, which may not exist.
func (c Cache) Folder() (string, error) {
	base, err := Base()
	return filepath.Join(base, c.Name), err
}

// Use is what a cache holds, or what was removed from it.
type Use struct {
	Cache
	Folder string `json:"folder"`
	Files  int    `json:"files"`
	Bytes  int64  `json:"bytes"`
}

// Use counts the cache's files; a folder that does not exist holds none.
func (c Cache) Use() (Use, error) { return c.each(func(string) error { return nil }) }

// Clear removes the cache's files, and only those.
func (c Cache) Clear() (Use, error) { return c.each(os.Remove) }

func (c Cache) each(f func(path string) error) (u Use, err error) {
	u.Cache = c
	if u.Folder, err = c.Folder(); err != nil {
		return u, err
	}
	entries, err := os.ReadDir(u.Folder)
	if os.IsNotExist(err) {
		return u, nil
	}
	if err != nil {
		return u, fault.As(fault.Environment, err)
	}
	for _, e := range entries {
		if !c.has(e) {
			continue
		}
		info, err := e.Info()
		if os.IsNotExist(err) {
			continue // another process was faster
		}
		if err == nil {
			err = f(filepath.Join(u.Folder, e.Name()))
		}
		if err != nil && !os.IsNotExist(err) {
			return u, fault.As(fault.Environment, err)
		}
		u.Files++
		u.Bytes += info.Size()
	}
	return u, nil
}

// has reports whether a folder's entry belongs to the cache: a plain file with
// its extension, or one still being written, which its process can do without.
func (c Cache) has(e fs.DirEntry) bool {
	return e.Type().IsRegular() && (strings.HasSuffix(e.Name(), c.ext) || atomicfile.IsTemporary(e.Name()))
}
