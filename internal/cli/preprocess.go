package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/img"
	"github.com/evatool/evatool/internal/tensorfile"
)

// preprocessModes are the values of --mode, and whether each is direct.
var preprocessModes = map[string]bool{"rgb-first": false, "direct": true}

// preprocessed is one line of the result.
type preprocessed struct {
	File       string `json:"file"`
	Decoder    string `json:"decoder"`
	Width      int    `json:"width"`
	Height     int    `json:"height"`
	DecodedSHA string `json:"decoded_sha256"`
	CropSHA    string `json:"crop_sha256"`
	TensorSHA  string `json:"tensor_sha256"`
}

func newPreprocess(app *App) *cobra.Command {
	var size int
	var mode, interpolation, preprocess, out string
	cmd := &cobra.Command{
		Use:   "preprocess --size N FILE...",
		Short: "Decode, resize and crop images as CLIP's evaluation does, and print the hashes",
		Long: `Decode images, resize the shorter side to N, cut the centre square and
normalise, bit for bit as PIL and torchvision do, and print SHA-256 hashes of
the decoded pixels (RGB, HWC, uint8), the crop (HWC, uint8) and the tensor (CHW,
float32, little-endian, CLIP's mean and standard deviation). --preprocess
describes a different preparation, for a model that squashes the image or has
another mean.

JPEG, PNG, WebP, GIF, BMP, TIFF, PGM and PPM are recognised by content. EXIF
orientation is not applied. Truncated files and images of more than 178,956,970
pixels are refused.

--mode rgb-first converts to RGB and then resizes, as ImageFolder and webdataset
do and as evaluation does here; direct resizes in the file's own mode (palette,
grey, CMYK, alpha) and then converts, as a transform of the opened image does.` + exitStatus,
		Example: `  evatool preprocess --size 224 cat.jpg dog.png --json
  evatool preprocess --size 336 --mode direct -o crops photos/*.webp`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			direct, ok := preprocessModes[mode]
			if !ok {
				return fault.Usagef("--mode %s: want rgb-first or direct", mode)
			}
			if size < 1 || size > 4096 {
				return fault.Usagef("--size %d: want a number from 1 to 4096, such as 224", size)
			}
			how := arch.OpenAIPreprocess()
			how.Size = size
			if preprocess != "" {
				var err error
				if how, err = checkpoint.ReadPreprocess(how, preprocess, size); err != nil {
					return err
				}
			}
			if cmd.Flags().Changed("interpolation") {
				how.Interpolation = interpolation
			}
			if _, ok := img.Filters[how.Interpolation]; !ok {
				return fault.Usagef("--interpolation %s: want bicubic, bilinear, nearest, lanczos, box or hamming", interpolation)
			}
			p := how.Steps()
			p.Direct = direct
			if direct && how.ResizeMode != arch.Shortest && how.ResizeMode != arch.Squash {
				return fault.Usagef("--mode direct: the border of resize=%s is made in RGB only; use --mode rgb-first", how.ResizeMode)
			}
			if err := distinctNames(out, files); err != nil {
				return err
			}
			for _, f := range files {
				if base := filepath.Join(out, filepath.Base(f)); out != "" {
					if err := atomicfile.Apart([]string{base + ".npy", base + ".png"}, files); err != nil {
						return err
					}
				}
			}
			results := make([]preprocessed, len(files))
			g, ctx := errgroup.WithContext(cmd.Context())
			g.SetLimit(workers(app.Threads))
			for i, file := range files {
				g.Go(func() error {
					if err := ctx.Err(); err != nil {
						return err
					}
					var err error
					results[i], err = preprocessFile(file, out, p)
					return err
				})
			}
			if err := g.Wait(); err != nil {
				return err
			}
			if app.JSON {
				return app.PrintJSON(results)
			}
			for _, r := range results {
				app.Printf("%s\n  %d x %d, decoded by %s\n  decoded %s\n  crop    %s\n  tensor  %s\n",
					r.File, r.Width, r.Height, r.Decoder, r.DecodedSHA, r.CropSHA, r.TensorSHA)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&size, "size", 224, "the model's image size: `N` pixels per side")
	f.StringVar(&mode, "mode", "rgb-first", "rgb-first or direct")
	f.StringVar(&interpolation, "interpolation", "bicubic", "bicubic, bilinear, nearest, lanczos, box or hamming")
	decodeMemoryFlag(cmd)
	preprocessFlag(cmd, &preprocess)
	f.StringVarP(&out, "out", "o", "", "write the crops to `DIR` as cat.jpg.npy (HWC, uint8) and cat.jpg.png")
	return cmd
}

func workers(threads int) int {
	if threads > 0 {
		return threads
	}
	return runtime.GOMAXPROCS(0)
}

// distinctNames makes sure that no crop overwrites another.
func distinctNames(out string, files []string) error {
	seen := map[string]string{}
	for _, f := range files {
		name := filepath.Base(f)
		if first, ok := seen[name]; ok && out != "" {
			return fault.Usagef("%s and %s would both be written to %s; give each folder its own -o", first, f, filepath.Join(out, name+".npy"))
		}
		seen[name] = f
	}
	return nil
}

func preprocessFile(file, out string, p img.Preprocess) (preprocessed, error) {
	im, err := img.Open(file)
	if err != nil {
		return preprocessed{}, err
	}
	decoded := sha256.New()
	cropper := p.Cropper(im.W, im.H)
	err = im.Rows(func(y int, rows *img.RGB) {
		decoded.Write(rows.Pix)
		cropper.Add(y, rows)
	})
	crop := cropper.Done()
	if err == nil && p.Direct {
		crop, err = im.Crop(p)
	}
	if err != nil {
		return preprocessed{}, fmt.Errorf("%s: %w", file, err)
	}
	tensor := make([]float32, 3*p.Size*p.Size)
	img.ToCHW(tensor, crop, p.Mean, p.Std)
	if out != "" {
		if err := writeCrop(filepath.Join(out, filepath.Base(file)), crop); err != nil {
			return preprocessed{}, err
		}
	}
	return preprocessed{file, img.Decoder, im.W, im.H, hex.EncodeToString(decoded.Sum(nil)), sha(crop.Pix), sha(tensorfile.EncodeFloat32s(tensor))}, nil
}

func sha(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// writeCrop writes base.npy and base.png, and creates their folder.
func writeCrop(base string, c *img.RGB) error {
	rgba := image.NewNRGBA(image.Rect(0, 0, c.W, c.H))
	for i := range c.W * c.H {
		copy(rgba.Pix[4*i:], c.Pix[3*i:3*i+3])
		rgba.Pix[4*i+3] = 0xFF
	}
	var pngData bytes.Buffer
	if err := png.Encode(&pngData, rgba); err != nil {
		return fmt.Errorf("%s.png: %w", base, err)
	}
	if err := makeFolder(filepath.Dir(base)); err != nil {
		return err
	}
	info := tensorfile.Info{Name: "crop", DType: tensorfile.U8, Shape: []int64{int64(c.H), int64(c.W), 3}}
	if err := tensorfile.WriteNPY(base+".npy", tensorfile.Tensor{Info: info, Data: c.Pix}); err != nil {
		return err
	}
	return atomicfile.WriteFile(base+".png", pngData.Bytes())
}

func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fault.Envf("%s: cannot be used as a folder to write to: %w; give another -o", fault.Name(dir), err)
	}
	return nil
}
