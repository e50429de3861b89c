package dataset

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/evatool/evatool/internal/fault"
)

var (
	//go:embed data/imagenet-wnids.txt
	wnidsText string
	//go:embed data/ilsvrc2012-ids.txt
	ilsvrcIDsText string
)

// Wnids are the WordNet ids of the 1,000 ImageNet classes, sorted: the class
// order of every model and of torchvision.
var Wnids = sync.OnceValue(func() []string { return strings.Fields(wnidsText) })

// ilsvrcIDs are the WordNet ids in the order of ILSVRC2012_ID, 1 first: the
// numbers of the development kit's ground truth, which is another order.
var ilsvrcIDs = sync.OnceValue(func() []string { return strings.Fields(ilsvrcIDsText) })

var validationImage = regexp.MustCompile(`^ILSVRC2012_val_(\d{8})\.(?:JPEG|jpeg|JPG|jpg)$`)

func anyValidationImage(files []file) bool {
	return slices.ContainsFunc(files, func(f file) bool { return validationImage.MatchString(path.Base(f.name)) })
}

// truth is a file with the classes of the validation images.
type truth struct {
	name string
	// read returns the WordNet id of each image number (1 is the first).
	read func(lines []string) (map[int]string, error)
}

// truths lists the forms in which the ground truth is published; the first one
// found is used.
var truths = []truth{
	{"ILSVRC2012_validation_ground_truth.txt", groundTruth},
	{"LOC_val_solution.csv", localisationTruth},
	{"imagenet_2012_validation_synset_labels.txt", synsetLabels},
	{"val.txt", numberedTruth},
}

// truthFolders are where it lies, seen from the images.
var truthFolders = []string{"", "..", "data", "../data", "ILSVRC2012_devkit_t12/data", "../ILSVRC2012_devkit_t12/data",
	"devkit/data", "../devkit/data", "../..", "../../..", "../../../.."}

// openILSVRC is the ImageNet validation set as it was published: images named
// by number, in a flat folder or a tar, and their classes in a file nearby.
func openILSVRC(ctx context.Context, st storage, dir string, files []file, o Options) (Dataset, error) {
	var class map[int]string
	var from string
	for _, where := range truthFolders {
		for _, t := range truths {
			name := st.join(st.join(dir, where), t.name)
			if class != nil || !exists(ctx, st, name) {
				continue
			}
			data, err := readAll(ctx, st, name, "the ground truth")
			if err != nil {
				return nil, err
			}
			if class, err = t.read(lines(data)); err != nil {
				return nil, fault.Inputf("%s: %w", fault.Name(name), err)
			}
			from = name
		}
	}
	if class == nil {
		var err error
		if class, from, err = truthInKit(ctx, st, dir); err != nil {
			return nil, err
		}
	}
	if class == nil {
		return nil, fault.Inputf("%s: ILSVRC2012_val images without their classes; put %s (development kit) or %s beside them", fault.Name(dir), truths[0].name, truths[1].name)
	}
	l := newLabels(o)
	if l.names == nil {
		l = l.of(Wnids(), nil)
	} else if len(l.names) == len(Wnids()) {
		l = l.of(o.ClassNames, append([][]string{Wnids()}, o.Also...)) // names for all of ImageNet, in its order
	}
	others := 0
	var records []record
	for _, f := range files {
		base := path.Base(f.name)
		m := validationImage.FindStringSubmatch(base)
		if m == nil {
			continue
		}
		n, _ := strconv.Atoi(m[1])
		wnid, ok := class[n]
		if !ok {
			return nil, fault.Inputf("%s: no class for %s; it lists %d images", fault.Name(from), base, len(class))
		}
		label, ok := l.find.find(wnid)
		if !ok && o.SkipOthers {
			others++
			continue
		}
		if !ok {
			return nil, fault.Inputf("%s: %s is of class %s, which is not one of the %d classes in use", fault.Name(from), base, fault.Name(brief(wnid)), len(l.names))
		}
		records = append(records, record{file: f, key: base, label: label})
	}
	if len(records) == 0 {
		return nil, fault.Inputf("%s: no image named ILSVRC2012_val_00000001.JPEG and so on", fault.Name(dir))
	}
	slices.SortFunc(records, func(a, b record) int { return strings.Compare(a.key, b.key) })
	for i := 1; i < len(records); i++ {
		if records[i].key == records[i-1].key {
			return nil, fault.Inputf("%s: %s occurs twice (%s, %s)", fault.Name(dir), records[i].key, fault.Name(records[i-1].file.name), fault.Name(records[i].file.name))
		}
	}
	l.say(false, strings.TrimPrefix(leftOut(others), ", "), dir)
	return newList(ctx, st, "ilsvrc validation", records, l.names), nil
}

// kit is the development kit as it was published.
const kit = "ILSVRC2012_devkit_t12.tar.gz"

// maxTruth bounds how much of the kit is unpacked.
const maxTruth = 4 << 20

// truthInKit reads the ground truth out of the packed development kit near dir.
func truthInKit(ctx context.Context, st storage, dir string) (map[int]string, string, error) {
	for _, where := range []string{"", ".."} {
		name := st.join(st.join(dir, where), kit)
		if !exists(ctx, st, name) {
			continue
		}
		data, err := readAll(ctx, st, name, "the development kit")
		if err != nil {
			return nil, "", err
		}
		text, err := unpackTruth(data)
		if err == nil {
			var class map[int]string
			class, err = groundTruth(lines(text))
			if err == nil {
				return class, name, nil
			}
		}
		return nil, "", fault.Inputf("%s: %w", fault.Name(name), err)
	}
	return nil, "", nil
}

// unpackTruth finds the ground truth in the packed kit.
func unpackTruth(data []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("holds no %s", truths[0].name)
		}
		if err != nil {
			return nil, err
		}
		if path.Base(h.Name) == truths[0].name {
			return io.ReadAll(io.LimitReader(r, maxTruth))
		}
	}
}

func lines(data []byte) []string {
	out := strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
	for len(out) > 0 && strings.TrimSpace(out[len(out)-1]) == "" {
		out = out[:len(out)-1]
	}
	return out
}

// groundTruth reads the development kit's file: an ILSVRC2012_ID per line.
func groundTruth(lines []string) (map[int]string, error) {
	ids := ilsvrcIDs()
	return eachLine(lines, func(i int, line string) (int, string, error) {
		id, err := strconv.Atoi(line)
		if err != nil || id < 1 || id > len(ids) {
			return 0, "", errors.New("want an ILSVRC2012_ID of 1..1000")
		}
		return i + 1, ids[id-1], nil
	})
}

// synsetLabels reads a WordNet id per line.
func synsetLabels(lines []string) (map[int]string, error) {
	return eachLine(lines, func(i int, line string) (int, string, error) {
		if _, ok := slices.BinarySearch(Wnids(), line); !ok {
			return 0, "", errors.New("want a WordNet id such as n01440764")
		}
		return i + 1, line, nil
	})
}

// localisationTruth reads Kaggle's table: ImageId,"WNID x y x y WNID …".
func localisationTruth(lines []string) (map[int]string, error) {
	if len(lines) > 0 && strings.HasPrefix(lines[0], "ImageId,") {
		lines = lines[1:]
	}
	return eachLine(lines, func(_ int, line string) (int, string, error) {
		name, boxes, _ := strings.Cut(line, ",")
		m := validationImage.FindStringSubmatch(name + ".JPEG")
		fields := strings.Fields(strings.Trim(boxes, `"`))
		if m == nil || len(fields) == 0 {
			return 0, "", errors.New("want ILSVRC2012_val_NNNNNNNN,WNID x y x y")
		}
		n, _ := strconv.Atoi(m[1])
		return n, fields[0], nil
	})
}

// numberedTruth reads Caffe's table: file name and class number, the classes
// sorted by WordNet id.
func numberedTruth(lines []string) (map[int]string, error) {
	return eachLine(lines, func(_ int, line string) (int, string, error) {
		fields := strings.Fields(line)
		if len(fields) == 2 {
			m := validationImage.FindStringSubmatch(path.Base(fields[0]))
			label, err := strconv.Atoi(fields[1])
			if m != nil && err == nil && label >= 0 && label < len(Wnids()) {
				n, _ := strconv.Atoi(m[1])
				return n, Wnids()[label], nil
			}
		}
		return 0, "", errors.New("want FILE NUMBER with a class number of 0..999")
	})
}

func eachLine(lines []string, read func(i int, line string) (int, string, error)) (map[int]string, error) {
	out := make(map[int]string, len(lines))
	for i, line := range lines {
		n, wnid, err := read(i, strings.TrimSpace(line))
		if err != nil {
			return nil, lineError(i+1, line, err)
		}
		out[n] = wnid
	}
	return out, nil
}
