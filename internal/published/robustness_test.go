package published

import (
	"math"
	"testing"
)

// The lines are scipy's linregress of the same 85 models' logits.
func TestRobustnessLines(t *testing.T) {
	for name, want := range map[string][2]float64{"imagenet-v2": {0.9232, -0.4977}, "imagenet-sketch": {1.0709, -2.3701}} {
		l, ok := RobustnessLine(name)
		if !ok || l.Models != 85 || math.Abs(l.Slope-want[0]) > 1e-4 || math.Abs(l.Intercept-want[1]) > 1e-4 {
			t.Errorf("%s: %+v, want %v", name, l, want)
		}
	}
	l, _ := RobustnessLine("imagenet-v2")
	// ResNet-50 of torchvision: 76.13 % and 63.23 % in the table.
	if v, ok := l.At(0.7613); !ok || math.Abs(v-0.6323) > 0.01 {
		t.Errorf("at ResNet-50: %v %v", v, ok)
	}
	for _, far := range []float64{0.3, 0.9} {
		if v, ok := l.At(far); ok {
			t.Errorf("%v on ImageNet is outside of the models, got %v", far, v)
		}
	}
	if _, ok := RobustnessLine("imagenet-a"); ok {
		t.Error("ImageNet-A has no line of 1,000 classes")
	}
}
