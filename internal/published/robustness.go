package published

import (
	_ "embed"
	"fmt"
	"math"
	"strconv"
	"sync"
)

//go:embed testbed.csv
var testbed string

// TestbedSource is the source of the lines.
const TestbedSource = "Taori et al. 2020, github.com/modestyachts/imagenet-testbed, robustness_top1s.csv of revision 0170eec"

// Line relates the accuracy of models trained on ImageNet alone to that on ImageNet:
// logit(accuracy) = Slope · logit(ImageNet) + Intercept.
type Line struct {
	Slope, Intercept float64
	Models           int
	Low, High        float64 // ImageNet accuracy of the worst and the best of them, 0 to 1
}

var lines = sync.OnceValue(func() map[string]Line {
	out := map[string]Line{}
	for i, name := range []string{"imagenet-v2", "imagenet-sketch"} {
		l := Line{Low: 1}
		var n, x, y, xx, xy float64
		for _, r := range table("testbed.csv", testbed) {
			a, err := strconv.ParseFloat(r[1], 64)
			b, err2 := strconv.ParseFloat(r[2+i], 64)
			if err != nil || err2 != nil {
				panic(fmt.Sprintf("testbed.csv: %v", r)) // embedded, and read by a test
			}
			l.Low, l.High, l.Models = min(l.Low, a/100), max(l.High, a/100), l.Models+1
			u, v := logit(a/100), logit(b/100)
			n, x, y, xx, xy = n+1, x+u, y+v, xx+u*u, xy+u*v
		}
		l.Slope = (n*xy - x*y) / (n*xx - x*x)
		l.Intercept = (y - l.Slope*x) / n
		out[name] = l
	}
	return out
})

func logit(p float64) float64 { return math.Log(p / (1 - p)) }

// RobustnessLine returns the least-squares line of the testbed's standard models for
// a benchmark of which both axes are accuracy over 1,000 classes.
func RobustnessLine(benchmark string) (Line, bool) {
	l, ok := lines()[benchmark]
	return l, ok
}

// At returns the accuracy on the line; false outside the range of its models.
func (l Line) At(imagenet float64) (float64, bool) {
	if imagenet < l.Low || imagenet > l.High {
		return 0, false
	}
	return 1 / (1 + math.Exp(-l.Slope*logit(imagenet)-l.Intercept)), true
}
