package eval

import (
	"context"
	"fmt"
	"image"
	"math"

	"golang.org/x/image/draw"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/img"
	"github.com/evatool/evatool/internal/runlog"
)

// diagnosisImages is how many images the diagnosis looks at.
const diagnosisImages = 200

// setup is everything that a usual mistake changes.
type setup struct {
	cfg       *arch.Config
	dtype     string
	pixels    pixelsFunc
	templates []string
}

// pixelsFunc turns a decoded image into the model's input [3,S,S].
type pixelsFunc func(dst []float32, im *img.RGB, p arch.Preprocess)

// cause is a usual reason for a wrong number.
type cause struct {
	name string
	// change makes the mistake, or undoes it; false where it does not apply.
	change func(s *setup, r *run) bool
	gain   string // what it means when the change helps
	// onePrompt: texts are encoded anew, so it is tried with one template and
	// measured against "one prompt".
	onePrompt bool
}

// onePrompt is the template of quick trials.
const onePrompt = "a photo of a {c}."

// causes are tried in this order; the first is the measure of the next two.
var causes = []cause{
	{name: "one prompt", change: func(s *setup, _ *run) bool {
		s.templates = []string{onePrompt}
		return true
	}, gain: "the published figure used another prompt set: give --templates"},
	{name: "QuickGELU switched", onePrompt: true, change: func(s *setup, _ *run) bool {
		c := *s.cfg
		c.QuickGELU = !c.QuickGELU
		s.cfg = &c
		return true
	}, gain: "the architecture has the wrong activation: give a --config with quick_gelu switched"},
	{name: "fp32", onePrompt: true, change: func(s *setup, _ *run) bool {
		half := s.dtype != "fp32"
		s.dtype = "fp32"
		return half
	}, gain: "half precision loses accuracy here: score with --dtype fp32"},
	{name: "bare class names", change: func(s *setup, _ *run) bool {
		s.templates = []string{"{c}"}
		return true
	}, gain: "the published figure used another prompt set: give --templates"},
	{name: "mean and std of ImageNet", change: pixelChange(func(dst []float32, im *img.RGB, p arch.Preprocess) {
		img.ToCHW(dst, crop(im, p.Size), [3]float32{0.485, 0.456, 0.406}, [3]float32{0.229, 0.224, 0.225})
	}), gain: "the model wants ImageNet's mean and std: set them in the configuration's preprocess_cfg"},
	{name: "mean and std 0.5", change: pixelChange(func(dst []float32, im *img.RGB, p arch.Preprocess) {
		half := [3]float32{0.5, 0.5, 0.5}
		img.ToCHW(dst, crop(im, p.Size), half, half)
	}), gain: "the model wants mean and std 0.5: set them in the configuration's preprocess_cfg"},
	{name: "bilinear interpolation", change: pixelChange(func(dst []float32, im *img.RGB, p arch.Preprocess) {
		w, h := shorter(im, p.Size)
		img.ToCHW(dst, centre(bilinear(im, w, h), p.Size), p.Mean, p.Std)
	}), gain: "the published figure used bilinear resizing"},
	{name: "resize to a square without a crop", change: pixelChange(func(dst []float32, im *img.RGB, p arch.Preprocess) {
		img.ToCHW(dst, img.ResizeBicubic(im, whole(im), p.Size, p.Size), p.Mean, p.Std)
	}), gain: "the images should be squeezed to a square, not cropped"},
	{name: "resize to size/0.875, then crop", change: pixelChange(func(dst []float32, im *img.RGB, p arch.Preprocess) {
		w, h := shorter(im, int(math.Round(float64(p.Size)/0.875)))
		img.ToCHW(dst, centre(img.ResizeBicubic(im, whole(im), w, h), p.Size), p.Mean, p.Std)
	}), gain: "the published figure cropped tighter (256 to 224)"},
	{name: "half the resolution", change: pixelChange(func(dst []float32, im *img.RGB, p arch.Preprocess) {
		half := crop(im, max(1, p.Size/2))
		img.ToCHW(dst, img.ResizeBicubic(half, whole(half), p.Size, p.Size), p.Mean, p.Std)
	}), gain: "the model was trained at a lower resolution: look at its image_size"},
}

func pixelChange(f pixelsFunc) func(*setup, *run) bool {
	return func(s *setup, r *run) bool {
		_, pictures := r.data.(*pictures)
		s.pixels = f
		return pictures
	}
}

func whole(im *img.RGB) [4]float64 { return [4]float64{0, 0, float64(im.W), float64(im.H)} }

// shorter is the size with the shorter side at n, as torchvision rounds it.
func shorter(im *img.RGB, n int) (w, h int) {
	if im.W <= im.H {
		return n, max(1, n*im.H/im.W)
	}
	return max(1, n*im.W/im.H), n
}

// crop is the evaluation transform.
func crop(im *img.RGB, n int) *img.RGB {
	w, h := shorter(im, n)
	return centre(img.ResizeBicubic(im, whole(im), w, h), n)
}

// centre cuts an n x n square out of the middle.
func centre(im *img.RGB, n int) *img.RGB {
	out := &img.RGB{W: n, H: n, Pix: make([]byte, 3*n*n)}
	x, y := (im.W-n)/2, (im.H-n)/2
	for row := range n {
		at := 3 * ((y+row)*im.W + x)
		copy(out.Pix[3*row*n:3*(row+1)*n], im.Pix[at:at+3*n])
	}
	return out
}

// bilinear resizes with a triangle filter that widens when it shrinks. It need
// not be PIL's to the bit: it answers whether interpolation matters.
func bilinear(im *img.RGB, w, h int) *img.RGB {
	src, dst := image.NewRGBA(image.Rect(0, 0, im.W, im.H)), image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range im.W * im.H {
		copy(src.Pix[4*i:], im.Pix[3*i:3*i+3])
		src.Pix[4*i+3] = 255
	}
	draw.BiLinear.Scale(dst, dst.Rect, src, src.Rect, draw.Src, nil)
	out := &img.RGB{W: w, H: h, Pix: make([]byte, 3*w*h)}
	for i := range w * h {
		copy(out.Pix[3*i:3*i+3], dst.Pix[4*i:])
	}
	return out
}

// diagnose tries the usual causes on a few hundred images and says what each
// changes. It reports all of them, the suspects first.
func (r *run) diagnose(ctx context.Context, entries []entry) ([]Finding, error) {
	sample := r.sample(entries)
	if len(sample) == 0 {
		return nil, nil
	}
	var findings []Finding
	before := 0
	for _, e := range sample {
		if e.Top[0] == e.Label {
			before++
		}
	}
	if f, ok := classOrder(entries, len(r.w.names)); ok {
		findings = append(findings, f)
	}
	meter := r.o.Meter("diagnosis", int64(len(causes)), "causes")
	defer meter.Done()
	measure := before // of the trials with one prompt
	for i, c := range causes {
		meter.Add(1)
		s := setup{cfg: r.cfg, dtype: r.o.DType, templates: r.w.templates}
		base := before
		if c.onePrompt {
			s.templates, base = []string{onePrompt}, measure
		}
		if !c.change(&s, r) {
			continue
		}
		after, err := r.again(ctx, s, sample)
		if err != nil {
			return nil, fmt.Errorf("diagnosis, %s: %w", c.name, err)
		}
		if i == 0 {
			measure = after
		}
		findings = append(findings, c.finding(len(sample), base, after))
	}
	findings = suspectsFirst(findings)
	if !findings[0].Suspect {
		findings = append(findings, Finding{Cause: "other", N: len(sample), Before: before, After: before,
			Text: "other: none of the usual causes explains the difference; these may not be the published weights, or not all of the images"})
	}
	return findings, nil
}

// finding puts a change into words.
func (c cause) finding(n, before, after int) Finding {
	f := Finding{Cause: c.name, N: n, Before: before, After: after, Suspect: beyondChance(n, before, after)}
	points := 100 * float64(after-before) / float64(n)
	verdict := "not the cause"
	if f.Suspect {
		verdict = c.gain
	}
	f.Text = fmt.Sprintf("%s: %d of %d right instead of %d (%+.1f points): %s", c.name, after, n, before, points, verdict)
	return f
}

// beyondChance asks for twice the standard error of a difference.
func beyondChance(n, before, after int) bool {
	p := float64(before+after) / float64(2*n)
	return float64(after-before) > 2*math.Sqrt(2*float64(n)*p*(1-p))
}

func suspectsFirst(list []Finding) []Finding {
	var out []Finding
	for _, want := range []bool{true, false} {
		for _, f := range list {
			if f.Suspect == want {
				out = append(out, f)
			}
		}
	}
	return out
}

// sample takes diagnosisImages entries at equal distances.
func (r *run) sample(entries []entry) []entry {
	var good []entry
	for _, e := range entries {
		if e.Bad == "" {
			good = append(good, e)
		}
	}
	n := min(diagnosisImages, len(good))
	out := make([]entry, n)
	for i := range out {
		out[i] = good[i*len(good)/n]
	}
	return out
}

// again scores the sample with a changed setup and counts the right answers.
func (r *run) again(ctx context.Context, s setup, sample []entry) (int, error) {
	sub := &run{o: r.o, cfg: s.cfg, pre: r.pre, model: r.model, backend: r.backend, w: r.w, data: r.data, texts: r.texts, open: r.open}
	sub.o.DType, sub.w.templates = s.dtype, s.templates
	sub.o.Meter, sub.o.Log, sub.o.MaxBad = noMeters, runlog.Discard(), len(sample)
	if s.pixels != nil {
		p := *r.data.(*pictures)
		p.custom = func(dst []float32, im *img.RGB) { s.pixels(dst, im, r.pre) }
		sub.data = &p
	}
	if s.cfg == r.cfg && s.dtype == r.o.DType { // the same model: share it
		sub.open = func(*arch.Config, string) (Encoder, func(), error) {
			enc, err := r.encoder()
			return enc, nil, err
		}
	}
	defer sub.release()
	ids := make([]int, len(sample))
	for i, e := range sample {
		ids[i] = e.Index
	}
	out, err := sub.images(ctx, ids, nil, &journal{})
	if err != nil {
		return 0, err
	}
	right := 0
	for _, e := range out {
		if e.Bad == "" && e.Top[0] == e.Label {
			right++
		}
	}
	return right, nil
}

// classOrder looks for labels that are a permutation of the predictions: when
// most images of a class get the same wrong answer, class after class, the
// list of names is in another order than the labels.
func classOrder(entries []entry, classes int) (Finding, bool) {
	table := map[[2]int]int{}
	n, right := 0, 0
	for _, e := range entries {
		if e.Bad != "" {
			continue
		}
		n++
		table[[2]int{e.Label, e.Top[0]}]++
		if e.Top[0] == e.Label {
			right++
		}
	}
	best := make([]int, classes) // most frequent answer per label, as a count
	answer := make([]int, classes)
	for k, v := range table {
		if v > best[k[0]] || v == best[k[0]] && k[1] < answer[k[0]] {
			best[k[0]], answer[k[0]] = v, k[1]
		}
	}
	matched := 0
	used := map[int]bool{}
	for label, v := range best {
		// Each answer may stand for one label: a model that says the same
		// everywhere is bad, not permuted.
		if v > 0 && !used[answer[label]] {
			used[answer[label]] = true
			matched += v
		}
	}
	f := Finding{Cause: "class order", N: n, Before: right, After: matched}
	f.Suspect = beyondChance(n, right, matched) && float64(matched) > 1.5*float64(right)
	verdict := "not the cause"
	if f.Suspect {
		verdict = "the classes are in another order than the labels: check the class list and the folder names"
	}
	f.Text = fmt.Sprintf("%s: with the best renaming of the classes %d of %d would be right instead of %d: %s", f.Cause, matched, n, right, verdict)
	return f, n > 0 && classes > 1
}

// outside says whether no published figure lies in the interval.
func (res *Result) outside() bool {
	if res.Published == nil || res.Published.InsideCI {
		return false
	}
	for _, f := range res.Published.Others {
		if f.InsideCI {
			return false
		}
	}
	return true
}
