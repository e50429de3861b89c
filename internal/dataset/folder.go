package dataset

import (
	"context"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// folderExtensions are the image files of an ImageFolder, as torchvision has
// them.
var folderExtensions = []string{".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}

func hasImageSuffix(name string) bool {
	lower := strings.ToLower(name)
	return slices.ContainsFunc(folderExtensions, func(ext string) bool { return strings.HasSuffix(lower, ext) })
}

// newFolders is torchvision's ImageFolder over files: the folders at the top
// are the classes in sorted order, files of any depth follow in the order of a
// sorted walk.
func newFolders(ctx context.Context, st storage, where string, files []file, o Options) (Dataset, error) {
	files = slices.DeleteFunc(slices.Clone(files), func(f file) bool { return hidden(f.name) })
	perClass := map[string][]file{}
	for _, f := range files {
		if class, _, ok := strings.Cut(f.name, "/"); ok {
			if hasImageSuffix(f.name) {
				perClass[class] = append(perClass[class], f)
			} else if _, ok := perClass[class]; !ok {
				perClass[class] = nil
			}
		}
	}
	if len(perClass) == 0 {
		return nil, fault.Inputf("%s: no class folders with images; want FOLDER/CLASS/IMAGE.jpg (%s)", where, strings.Join(folderExtensions, " "))
	}
	dirs := make([]string, 0, len(perClass))
	for d, files := range perClass {
		if len(files) == 0 {
			return nil, fault.Inputf("%s: folder %q has no image (%s); remove it or give the right folder", where, d, strings.Join(folderExtensions, " "))
		}
		dirs = append(dirs, d)
	}
	slices.Sort(dirs)
	l := newLabels(o.ClassNames)
	labelOf, err := l.folders(where, dirs, o.SkipOthers)
	if err != nil {
		return nil, err
	}
	var records []record
	for _, d := range dirs {
		label, ok := labelOf[d]
		if !ok {
			continue
		}
		files := perClass[d]
		baseSorted(files)
		for _, f := range files {
			records = append(records, record{file: f, key: f.name, label: label})
		}
	}
	classes := dirs
	if l.names != nil {
		classes = l.names
	}
	return newList(ctx, st, "imagefolder", records, classes), nil
}

// hidden names are what systems put beside the data, not classes.
func hidden(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") || part == "__MACOSX" {
			return true
		}
	}
	return false
}

// withoutTop cuts off the folders that hold every class folder, as the
// published tars have them.
func withoutTop(files []file) []file {
	images := slices.DeleteFunc(slices.Clone(files), func(f file) bool { return !hasImageSuffix(f.name) })
	for {
		top, _, _ := strings.Cut(images[0].name, "/")
		for _, f := range images {
			if !strings.HasPrefix(f.name, top+"/") || strings.Count(f.name, "/") < 2 {
				return images
			}
		}
		for i := range images {
			images[i].name = images[i].name[len(top)+1:]
		}
	}
}
