package atomicfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

func TestApart(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(at("data/deep"), 0o755))
	for _, f := range []string{"m.safetensors", "data/deep/x.csv", "other"} {
		check(os.WriteFile(at(f), nil, 0o644))
	}
	check(os.Symlink("m.safetensors", at("link")))
	check(os.Symlink("data", at("folder")))
	check(os.Link(at("m.safetensors"), at("hard")))
	for _, c := range []struct {
		name    string
		out, in []string
		want    string
	}{
		{"the model itself", []string{"m.safetensors"}, []string{"other", "m.safetensors"}, "is the input"},
		{"another spelling", []string{"data/../m.safetensors"}, []string{"m.safetensors"}, "is the input"},
		{"hard link", []string{"hard"}, []string{"m.safetensors"}, "is the input"},
		{"input through a link", []string{"m.safetensors"}, []string{"link"}, "is the input"},
		{"a file of the data's folder", []string{"data/deep/x.csv"}, []string{"folder"}, "in the input folder"},
		{"a new file in it", []string{"data/new.csv"}, []string{"data"}, ""},
		{"two outputs", []string{"new", "data/../NEW"}, nil, "two outputs"},
		{"two outputs that are there", []string{"hard", "m.safetensors"}, nil, "two outputs"},
		{"apart", []string{"other", "", "new"}, []string{"m.safetensors", "", "missing"}, ""},
	} {
		var out, in []string
		for _, o := range c.out {
			if o != "" {
				o = dir + "/" + o
			}
			out = append(out, o)
		}
		for _, i := range c.in {
			if i != "" {
				i = dir + "/" + i
			}
			in = append(in, i)
		}
		err := Apart(out, in)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || fault.Code(err) != int(fault.Usage)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if err := Folder(dir, []string{"new", "link"}, nil); fault.Code(err) != 4 || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("a link among the files of a folder: %v", err)
	}
	if err := Folder(dir, []string{"new", "other"}, []string{at("other"), dir}); fault.Code(err) != 2 {
		t.Errorf("an input among the files of a folder: %v", err)
	}
	if err := Folder(dir, []string{"new", "other"}, []string{dir}); err != nil {
		t.Errorf("a folder in one that is read: %v", err)
	}
	if _, err := Create(at("link")); fault.Code(err) != 4 {
		t.Errorf("a file made over a link: %v", err)
	}
	for path, want := range map[string]int{at("link"): 4, at("data"): 4, os.DevNull: 4, at("none/x"): 4, at("other/x"): 4, at("other"): 0, at("new"): 0} {
		if err := Target(path); fault.Code(err) != want {
			t.Errorf("Target(%s): %v, want status %d", path, err, want)
		}
	}
}
