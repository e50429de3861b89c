package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/zip"
)

// TestModule: the repository can be installed with go install, which refuses a module
// that holds a file name some system cannot write, or replaces another module.
func TestModule(t *testing.T) {
	out, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		t.Skip("not a clone of the repository: there is no list of its files")
	}
	var files []zip.File
	for _, name := range strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		files = append(files, onDisk(name))
	}
	checked, err := zip.CheckFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	if checked.SizeError != nil || len(checked.Valid) < 200 {
		t.Errorf("%d files, %v", len(checked.Valid), checked.SizeError)
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if f, err := modfile.Parse("go.mod", mod, nil); err != nil || len(f.Replace)+len(f.Exclude) > 0 {
		t.Errorf("go.mod replaces or excludes modules, which go install does not do (%v)", err)
	}
}

// onDisk is a file of the module.
type onDisk string

func (f onDisk) Path() string { return filepath.ToSlash(string(f)) }

func (f onDisk) Lstat() (os.FileInfo, error) { return os.Lstat(string(f)) }

func (f onDisk) Open() (io.ReadCloser, error) { return os.Open(string(f)) }
