package eval

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// vocSet is Pascal VOC 2007 as its authors pack it: the test pictures, each with
// 0 or 1 for every class of which an object is annotated, difficult ones too, as
// CLIP_benchmark counts them.
type vocSet struct {
	fileSet
	has [][]int
}

// vocFolder is where a VOC of 2007 lies at or below dir; "" when there is none.
func vocFolder(dir string) string {
	for _, sub := range []string{".", "VOC2007", "VOCdevkit/VOC2007"} {
		path := filepath.Join(dir, sub)
		if _, err := os.Stat(filepath.Join(path, "ImageSets", "Main", "test.txt")); err == nil {
			return path
		}
	}
	return ""
}

func isVOC(dir string) bool { return vocFolder(dir) != "" }

func openVOC(dir string, classes []string, p arch.Preprocess) (source, error) {
	root := vocFolder(dir)
	ids, err := Lines(filepath.Join(root, "ImageSets", "Main", "test.txt"), "picture names")
	if err != nil {
		return nil, err
	}
	v := &vocSet{}
	for _, line := range ids {
		id := strings.Fields(line)[0]
		if !filepath.IsLocal(id) {
			return nil, fault.Inputf("%s: picture %.40q: want a plain file name", fault.Name(root), id)
		}
		has, err := annotated(filepath.Join(root, "Annotations", id+".xml"), classes)
		if err != nil {
			return nil, err
		}
		v.fileSet, v.has = append(v.fileSet, filepath.Join(root, "JPEGImages", id+".jpg")), append(v.has, has)
	}
	return newPictures(v, p), nil
}

// annotated reads which classes an annotation has objects of.
func annotated(path string, classes []string) ([]int, error) {
	b, err := readFile(path, "a VOC annotation")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Objects []struct {
			Name string `xml:"name"`
		} `xml:"object"`
	}
	if err := xml.Unmarshal(b, &doc); err != nil {
		return nil, fault.Inputf("%s: not a VOC annotation: %w", fault.Name(path), err)
	}
	has := make([]int, len(classes))
	for _, o := range doc.Objects {
		c := slices.Index(classes, strings.TrimSpace(o.Name))
		if c < 0 {
			return nil, fault.Inputf("%s: object %.40q is not one of the %d classes (%s, …)", fault.Name(path), o.Name, len(classes), classes[0])
		}
		has[c] = 1
	}
	return has, nil
}

func (v *vocSet) Describe() string { return fmt.Sprintf("VOC 2007, %d test pictures", v.Len()) }

func (v *vocSet) Fingerprint() string {
	var parts []string
	for i, path := range v.fileSet {
		parts = append(parts, filepath.Base(path), fmt.Sprint(v.has[i]))
	}
	return contentKey(parts...)
}

func (v *vocSet) Read(i int) (dataset.Example, error) {
	ex, err := fileSet{v.fileSet[i]}.Read(0)
	ex.Index, ex.Key, ex.Meta = i, filepath.Base(v.fileSet[i]), v.has[i]
	return ex, err
}
