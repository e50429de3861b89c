package hub

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
)

// The cache is huggingface_hub's:
//
//	models--OWNER--NAME/blobs/HASH                 the bytes
//	models--OWNER--NAME/snapshots/COMMIT/FILE      a link to them
//	models--OWNER--NAME/refs/REVISION              the commit of a branch or tag
//	models--OWNER--NAME/.no_exist/COMMIT/FILE      empty: the commit has no such file
//	.locks/models--OWNER--NAME/HASH.lock           held while a blob is written

// ref is a repository and a revision of it.
type ref struct {
	repo     string // OWNER/NAME
	revision string // branch, tag or commit
	commit   string // what the revision stands for, if known
}

// at is the revision to request.
func (r ref) at() string { return cmp.Or(r.commit, r.revision) }

// file is the name of a file of the repository in messages.
func (r ref) file(name string) string {
	s := "hf:" + r.repo
	if r.revision != mainRevision {
		s += "@" + r.revision
	}
	if name != "" {
		s += "/" + name
	}
	return fault.Name(s)
}

const mainRevision = "main"

func (c *client) folder(repo string) string {
	return filepath.Join(c.Cache, "models--"+strings.ReplaceAll(repo, "/", "--"))
}

func (c *client) blob(repo, etag string) string {
	return filepath.Join(c.folder(repo), "blobs", etag)
}

func (c *client) pointer(repo, commit, name string) string {
	return filepath.Join(c.folder(repo), "snapshots", commit, filepath.FromSlash(name))
}

func (c *client) absent(repo, commit, name string) string {
	return filepath.Join(c.folder(repo), ".no_exist", commit, filepath.FromSlash(name))
}

// cachedCommit is the commit that a revision stood for when it was last requested,
// or empty if unknown.
func (c *client) cachedCommit(r ref) string {
	if isSHA1(r.at()) {
		return r.at()
	}
	b, err := fault.ReadFile(filepath.Join(c.folder(r.repo), "refs", filepath.FromSlash(r.revision)), "a commit", 4096)
	if err != nil || !isSHA1(string(b)) {
		return ""
	}
	return string(b)
}

// remember records the commit of a revision.
func (c *client) remember(r ref, commit string) error {
	if r.revision == commit || c.cachedCommit(ref{repo: r.repo, revision: r.revision}) == commit {
		return nil
	}
	at := filepath.Join(c.folder(r.repo), "refs", filepath.FromSlash(r.revision))
	if err := c.mkdir(filepath.Dir(at)); err != nil {
		return err
	}
	return atomicfile.WriteFile(at, []byte(commit))
}

// noteAbsent records that a commit has no such file.
func (c *client) noteAbsent(repo, commit, name string) {
	at := c.absent(repo, commit, name)
	if c.mkdir(filepath.Dir(at)) == nil {
		os.WriteFile(at, nil, 0o666) // without it the hub is only asked again
	}
}

// cachedFiles lists the files of a commit that are in the cache.
func (c *client) cachedFiles(repo, commit string) (names []string) {
	root := c.pointer(repo, commit, "")
	filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if _, err := os.Stat(p); err == nil { // not a dangling link
			rel, _ := filepath.Rel(root, p)
			names = append(names, filepath.ToSlash(rel))
		}
		return nil
	})
	return names
}

func (c *client) mkdir(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fault.Envf("%s: %w; set HF_HUB_CACHE to a writable folder", fault.Name(c.Cache), err)
	}
	return nil
}

// tag marks the cache for backup programs, as huggingface_hub does.
func (c *client) tag() {
	at := filepath.Join(c.Cache, "CACHEDIR.TAG")
	if _, err := os.Lstat(at); errors.Is(err, fs.ErrNotExist) {
		os.WriteFile(at, []byte("Signature: 8a477f597d28d172789f06886806bc55\n# A cache of the Hugging Face hub: https://bford.info/cachedir/\n"), 0o666)
	}
}

// link links a blob into the snapshot of a commit. On a file system without links,
// it moves the file itself there.
func link(blob, pointer string) error {
	rel, err := filepath.Rel(filepath.Dir(pointer), blob)
	if err != nil {
		return err
	}
	if to, err := os.Readlink(pointer); err == nil && to == rel {
		return nil
	}
	os.Remove(pointer) // a link to another blob, or a dangling one
	err = os.Symlink(rel, pointer)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	if os.Link(blob, pointer) == nil {
		return nil
	}
	return os.Rename(blob, pointer)
}

// blobOf is the name of the blob that a file of a snapshot links to, which is its
// hash; empty for a file that is not a link.
func blobOf(pointer string) string {
	to, err := os.Readlink(pointer)
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// blobsLike are the names of a repository's blobs that are as long as a file.
func (c *client) blobsLike(repo, at string) (list []string) {
	st, err := os.Stat(at)
	if err != nil {
		return nil
	}
	entries, _ := os.ReadDir(c.blob(repo, ""))
	for _, e := range entries {
		if b, err := e.Info(); err == nil && b.Size() == st.Size() && (isSHA256(e.Name()) || isSHA1(e.Name())) {
			list = append(list, e.Name())
		}
	}
	return list
}

// local reports whether a name from a server is that of a file inside a folder.
func local(name string) bool {
	return name != "" && path.Clean(name) == name && filepath.IsLocal(filepath.FromSlash(name)) && !strings.ContainsAny(name, "\\:\x00")
}
