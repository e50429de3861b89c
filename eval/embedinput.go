package eval

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

func (e *embedding) close() {
	if e.images != nil {
		e.images.Close()
	}
}

// inputs opens everything that goes in.
func (e *embedding) inputs(ctx context.Context) (err error) {
	if e.o.Tensors != "" {
		return e.openTensors()
	}
	if len(e.o.Images) > 0 {
		if e.images, err = openFiles(e.o.Images, e.m.pixels()); err != nil {
			return err
		}
	}
	if e.o.Texts == "" {
		return nil
	}
	tok, err := e.m.textTokens(ctx)
	if err != nil {
		return err
	}
	if e.texts, err = readTexts(ctx, e.o.Texts, e.o.Stdin); err != nil {
		return err
	}
	width := e.m.file.Config.Text.ContextLength
	e.nTexts = len(e.texts)
	e.tokens = make([]int32, len(e.texts)*width)
	for i, t := range e.texts {
		tok.Tokens(e.tokens[i*width:(i+1)*width], t, width)
	}
	return nil
}

// readTexts reads one text a line; an empty line is an empty text.
func readTexts(ctx context.Context, path string, stdin io.Reader) ([]string, error) {
	var b []byte
	var err error
	if path == "-" {
		b, err = fault.ReadAll(ctx, stdin)
	} else {
		b, err = readFile(path, "texts, one a line")
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(strings.TrimPrefix(string(b), "\ufeff")) {
		if !utf8.ValidString(line) || strings.IndexByte(line, 0) >= 0 {
			return nil, fault.Inputf("%s: line %d: not UTF-8; save the texts as UTF-8, one a line", fault.Name(path), len(out)+1)
		}
		out = append(out, strings.TrimRight(line, "\r\n"))
	}
	if len(out) == 0 {
		return nil, fault.Inputf("%s: empty; want texts, one a line", path)
	}
	return out, nil
}

// openTensors reads the tokens and opens the images of Options.Tensors.
func (e *embedding) openTensors() error {
	path := e.o.Tensors
	if err := fault.RegularFile(path, "a .safetensors with images and/or tokens"); err != nil {
		return err
	}
	f, err := tensorfile.OpenFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, images := findTensor(f, "images")
	tokens, texts := findTensor(f, "tokens")
	if !images && !texts {
		return fault.Inputf("%s: has no tensor \"images\" or \"tokens\"; want at least one of them", path)
	}
	if texts {
		if err := e.readTokens(f, path, tokens); err != nil {
			return err
		}
	}
	if images {
		e.images, err = openTensorSource(path, e.m.file.Preprocess.Size, false)
	}
	return err
}

func (e *embedding) readTokens(f *tensorfile.File, path string, t tensorfile.Info) error {
	text := e.m.file.Config.Text
	if len(t.Shape) != 2 || t.Shape[1] != int64(text.ContextLength) {
		return fault.Inputf("%s: tokens has shape %v; the model takes [n,%d]", path, t.Shape, text.ContextLength)
	}
	ids, err := tensorfile.Int64s(f, t.Name)
	if err != nil {
		return fault.As(fault.Input, fmt.Errorf("%s: %w", path, err))
	}
	e.nTexts = int(t.Shape[0])
	e.tokens = make([]int32, len(ids))
	for i, id := range ids {
		if id < 0 || id >= int64(text.VocabSize) {
			return fault.Inputf("%s: tokens[%d,%d] is %d; the model's token ids are 0 to %d", path, i/text.ContextLength, i%text.ContextLength, id, text.VocabSize-1)
		}
		e.tokens[i] = int32(id)
	}
	return nil
}

// pictureFiles walks the paths for image files, in order of name.
func pictureFiles(paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, fault.File(p, "an image or a folder of images", err)
		}
		if !st.IsDir() {
			out = append(out, p)
			continue
		}
		err = filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return fault.File(path, "a folder that can be read", err)
			}
			if !d.IsDir() && pictureExt[strings.ToLower(filepath.Ext(path))] {
				out = append(out, path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, fault.Inputf("%s: no images; want .jpg .png .webp .gif .bmp .tif or .ppm files", strings.Join(paths, " "))
	}
	return out, nil
}
