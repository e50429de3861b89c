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
	l := newLabels(o)
	files = slices.DeleteFunc(slices.Clone(files), func(f file) bool { return hidden(f.name) })
	if l.names != nil {
		files = atClasses(files, l)
	}
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
		return nil, fault.Inputf("%s: no class folders with images; want FOLDER/CLASS/IMAGE.jpg (%s)", fault.Name(where), strings.Join(folderExtensions, " "))
	}
	dirs := make([]string, 0, len(perClass))
	for d, files := range perClass {
		if len(files) == 0 {
			return nil, fault.Inputf("%s: folder %q has no image (%s); remove it or give the right folder", fault.Name(where), d, strings.Join(folderExtensions, " "))
		}
		dirs = append(dirs, d)
	}
	slices.Sort(dirs)
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
		for i, f := range files {
			if i > 0 && f.name == files[i-1].name && f.path == files[i-1].path { // of a tar
				at := []int64{f.off, files[i-1].off}
				return nil, fault.Inputf("%s: %s is in it twice, with its bytes at offsets %d and %d; unpacking keeps the last one: do so and give the folder", fault.Name(f.path), fault.Name(f.name), slices.Min(at), slices.Max(at))
			}
			records = append(records, record{file: f, key: f.name, label: label})
		}
	}
	classes := l.names
	if classes == nil {
		for _, d := range dirs {
			classes = append(classes, exact(d))
		}
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

// atClasses goes down to the class folders when the folder given is one above
// them in a set as it was published, such as imagenet-r/ or
// objectnet-1.0/images/: down while no folder is a class and all images lie in
// one folder, in folders.
func atClasses(files []file, l *labels) []file {
	for {
		top := ""
		for _, f := range files {
			class, rest, ok := strings.Cut(f.name, "/")
			_, known := l.find.find(class)
			if known {
				return files
			}
			if !hasImageSuffix(f.name) {
				continue
			}
			if !ok || !strings.Contains(rest, "/") {
				return files
			}
			if top != "" && class != top {
				if top = evaluationPart(files, l); top == "" {
					return files
				}
				break
			}
			top = class
		}
		if top == "" {
			return files
		}
		files = slices.DeleteFunc(files, func(f file) bool { return !strings.HasPrefix(f.name, top+"/") })
		for i := range files {
			files[i].name = files[i].name[len(top)+1:]
		}
	}
}

// evaluationPart is the one of several folders that is to be scored, as test/
// beside train/: the first with class folders in it, "" when there is none.
func evaluationPart(files []file, l *labels) string {
	for _, part := range evaluationParts {
		for _, f := range files {
			if rest, ok := strings.CutPrefix(f.name, part+"/"); ok {
				class, _, deeper := strings.Cut(rest, "/")
				if _, known := l.find.find(class); known && deeper {
					return part
				}
			}
		}
	}
	return ""
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
