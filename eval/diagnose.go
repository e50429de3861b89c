package eval

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/img"
	"github.com/evatool/evatool/internal/runlog"
)

// diagnosisImages is how many images the diagnosis looks at, at most.
const diagnosisImages = 200

// diagnosisSeconds is what the diagnosis may take however short the evaluation was.
var diagnosisSeconds = 10.

// setup is everything that a common mistake changes.
type setup struct {
	cfg       *arch.Config
	dtype     string
	templates []string
	pictures  *pictures // nil where the data has none
}

// cause is a common reason for a wrong number.
type cause struct {
	name string
	// change makes the mistake, or undoes it; false where it does not apply.
	change func(s *setup) bool
	gain   string // what it means when the change helps
	// onePrompt: texts are encoded anew, so it is tried with one template and
	// measured against "one prompt".
	onePrompt bool
}

// onePrompt is the template of quick trials.
const onePrompt = "a photo of a {c}."

// causes are tried in this order; the first is the baseline of the next two.
var causes = []cause{
	{name: "one prompt", change: func(s *setup) bool {
		s.templates = []string{onePrompt}
		return true
	}, gain: "the published figure used another prompt set: score with its templates"},
	{name: "QuickGELU switched", onePrompt: true, change: func(s *setup) bool {
		c := *s.cfg
		c.QuickGELU = !c.QuickGELU
		s.cfg = &c
		return true
	}, gain: "the architecture has the wrong activation: score with a config whose quick_gelu is switched"},
	{name: "fp32", onePrompt: true, change: func(s *setup) bool {
		half := s.dtype != "fp32"
		s.dtype = "fp32"
		return half
	}, gain: "half precision loses accuracy here: score with dtype fp32"},
	{name: "bare class names", change: func(s *setup) bool {
		s.templates = []string{"{c}"}
		return true
	}, gain: "the published figure used another prompt set: score with its templates"},
	{name: "mean and std of ImageNet", change: otherPixels(func(p *pictures) {
		p.pre.Mean, p.pre.Std = [3]float32{0.485, 0.456, 0.406}, [3]float32{0.229, 0.224, 0.225}
	}), gain: "the model wants ImageNet's mean and std: score with preprocess imagenet"},
	{name: "mean and std 0.5", change: otherPixels(func(p *pictures) {
		p.pre.Mean, p.pre.Std = [3]float32{0.5, 0.5, 0.5}, [3]float32{0.5, 0.5, 0.5}
	}), gain: "the model wants mean and std 0.5: score with preprocess inception"},
	{name: "interpolation switched", change: otherPixels(func(p *pictures) {
		if p.pre.Filter++; p.pre.Filter > img.Bilinear {
			p.pre.Filter = img.Bicubic
		}
	}), gain: "bicubic and bilinear are mixed up: score with the other one, preprocess interpolation=bicubic or bilinear"},
	{name: "crop and squash switched", change: otherPixels(func(p *pictures) {
		if p.pre.Resize = [2]int{}; p.pre.Mode == img.Squash {
			p.pre.Mode = img.Shortest
		} else {
			p.pre.Mode = img.Squash
		}
	}), gain: "the shorter side and a crop, and both sides to a square, are mixed up: score with the other one, preprocess resize=shortest or squash"},
	{name: "resize to size/0.875, then crop", change: otherPixels(func(p *pictures) {
		p.crop = func(im *img.Picture, p img.Preprocess) (*img.RGB, error) {
			size := p.Size
			p.Mode, p.Resize = img.Shortest, [2]int{}
			p.Size = int(math.Round(float64(size) / 0.875))
			edge := (p.Size - size) / 2
			c, err := im.Crop(p)
			if err != nil {
				return nil, err
			}
			return img.RandomResizedCrop(c, img.Box{X: edge, Y: edge, W: size, H: size}, size), nil
		}
	}), gain: "the published figure cropped tighter (256 to 224)"},
	{name: "half the resolution", change: otherPixels(func(p *pictures) {
		p.crop = func(im *img.Picture, p img.Preprocess) (*img.RGB, error) {
			half := p
			half.Size = max(1, p.Size/2)
			c, err := im.Crop(half)
			if err != nil {
				return nil, err
			}
			return img.Resize(c, p.Filter, [4]float64{0, 0, float64(c.W), float64(c.H)}, p.Size, p.Size), nil
		}
	}), gain: "the model was trained at a lower resolution: look at its image_size"},
}

func otherPixels(change func(*pictures)) func(*setup) bool {
	return func(s *setup) bool {
		if s.pictures == nil {
			return false
		}
		p := *s.pictures
		change(&p)
		s.pictures = &p
		return true
	}
}

// diagnose tries the usual causes on a few hundred images and says what each
// changes. It reports all of them, the suspects first, and takes no longer than
// the evaluation.
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
	start, longest := time.Now(), 0.
	budget := r.budget(len(entries))
	var left []string // causes that there was no time for
	measure := before // of the trials with one prompt
	own, _ := r.data.(*pictures)
	for i, c := range causes {
		meter.Add(1)
		s := setup{cfg: r.cfg, dtype: r.o.DType, templates: r.w.templates, pictures: own}
		base := before
		if c.onePrompt {
			s.templates, base = []string{onePrompt}, measure
		}
		if !c.change(&s) {
			continue
		}
		began := time.Now()
		if time.Since(start).Seconds()+longest > budget {
			left = append(left, c.name)
			continue
		}
		after, err := r.again(ctx, s, sample)
		if err != nil {
			return nil, fmt.Errorf("diagnosis, %s: %w", c.name, err)
		}
		longest = max(longest, time.Since(began).Seconds())
		if i == 0 {
			measure = after
		}
		findings = append(findings, c.finding(len(sample), base, after))
	}
	findings = suspectsFirst(findings)
	switch {
	case left != nil:
		findings = append(findings, Finding{Cause: "not tried", N: len(sample), Before: before, After: before,
			Text: fmt.Sprintf("not tried: %s; the diagnosis may take %.0f s at most", strings.Join(left, ", "), budget)})
	case !findings[0].Suspect:
		findings = append(findings, Finding{Cause: "other", N: len(sample), Before: before, After: before,
			Text: "other: none of the usual causes explains the difference; these may not be the published weights, or not all of the images"})
	}
	return findings, nil
}

// budget is how many seconds the diagnosis of n scored images may take: what
// scoring all of them took or, when nothing was scored in this session, no more
// than a trial with a new model needs.
func (r *run) budget(n int) float64 {
	took := r.seconds.Load + r.seconds.Classifier
	if r.seen > 0 {
		took += r.seconds.Images * float64(n) / float64(r.seen)
	}
	return max(took, diagnosisSeconds)
}

// finding puts a change into words.
func (c cause) finding(n, before, after int) Finding {
	f := Finding{Cause: c.name, N: n, Before: before, After: after, Suspect: beyondChance(n, before, after)}
	points := 100 * float64(after-before) / float64(n)
	verdict := "not the cause"
	switch {
	case f.Suspect:
		verdict = c.gain
	case n < 30:
		verdict = "too few images to show it"
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

// sample takes entries at equal distances: so many that all causes together
// take less than the evaluation, or diagnosisSeconds.
func (r *run) sample(entries []entry) []entry {
	var good []entry
	for _, e := range entries {
		if e.Bad == "" {
			good = append(good, e)
		}
	}
	trials := len(causes) + 2 // models and prompts take time too
	n := max(1, len(good)/trials)
	if r.seen > 0 && r.seconds.Images > 0 {
		n = max(n, int(min(diagnosisSeconds/float64(trials)*float64(r.seen)/r.seconds.Images, diagnosisImages)))
	}
	n = min(n, diagnosisImages, len(good))
	out := make([]entry, n)
	for i := range out {
		out[i] = good[i*len(good)/n]
	}
	return out
}

// again scores the sample with a changed setup and counts the right answers.
func (r *run) again(ctx context.Context, s setup, sample []entry) (int, error) {
	sub := &run{o: r.o, cfg: s.cfg, pre: r.pre, model: r.model, backend: r.backend, arithmetic: r.arithmetic, w: r.w, data: r.data, texts: r.texts, open: r.open, words: r.words}
	sub.o.DType, sub.w.templates = s.dtype, s.templates
	sub.o.Meter, sub.o.Log, sub.o.MaxBad = noMeters, runlog.Discard(), len(sample)
	if s.pictures != nil {
		sub.data = s.pictures
	}
	if s.cfg == r.cfg && s.dtype == r.o.DType { // the same model: share it
		sub.open = func(*arch.Config, string) (encoder, func(), error) {
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
	matched, free := 0, 0 // any answer is right once: one for each class is no evidence
	used := map[int]bool{}
	for label, v := range best {
		// Each answer may stand for one label: a model that says the same
		// everywhere is bad, not permuted.
		if v > 0 && !used[answer[label]] {
			used[answer[label]] = true
			matched += v
			free++
		}
	}
	f := Finding{Cause: "class order", N: n, Before: right, After: matched}
	f.Suspect = beyondChance(n, right, matched-free) && float64(matched-free) > 1.5*float64(right)
	verdict := "not the cause"
	if f.Suspect {
		verdict = "the classes are not in the order of the labels: check the class list and the folder names"
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
