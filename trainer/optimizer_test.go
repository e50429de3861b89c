package trainer

import (
	"fmt"
	"math"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/device"
)

// TestDeepSpeedLamb follows the formula of DeepSpeed's FusedLamb
// (facts/optimizers.json) in float64 over three steps: both clamps of the
// trust ratio, a zero parameter, decay and none.
func TestDeepSpeedLamb(t *testing.T) {
	const b1, b2, eps, lr = 0.9, 0.98, 1e-6, 0.01
	dev := onDevice(t, 0)
	for name, c := range map[string]struct {
		p, g []float64
		wd   float64
	}{
		"ratio within": {[]float64{0.5, -1, 2}, []float64{0.1, 0.2, -0.3}, 0.05},
		"ratio high":   {[]float64{500, -100, 200}, []float64{0.1, 0.2, -0.3}, 0},
		"ratio low":    {[]float64{1e-4, -1e-4, 1e-5}, []float64{0.1, 0.2, -0.3}, 0.05},
		"zero":         {[]float64{0, 0, 0}, []float64{0.1, 0.2, -0.3}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := len(c.p)
			m, v := make([]float64, n), make([]float64, n)
			put := func(x []float64) *device.Array {
				f := make([]float32, len(x))
				for i := range x {
					f[i] = float32(x[i])
				}
				a, err := dev.PutF32(device.Replicated, f, len(f))
				if err != nil {
					t.Fatal(err)
				}
				return a
			}
			prog := dev.Program("lamb", func(in []*Node) []*Node {
				step := Reshape(in[4])
				u := &update{p: in[0], g: in[1], m: in[2], v: in[3], lr: Scalar(in[0].Graph(), in[0].DType(), lr),
					c1: biasCorrection(step, b1), c2: biasCorrection(step, b2), wd: c.wd, eps: eps, b1: b1, b2: b2}
				u.moments()
				return []*Node{optimizers["lamb-deepspeed"].step(u), u.m, u.v}
			})
			p := append([]float64(nil), c.p...)
			state := []*device.Array{put(p), put(m), put(v)}
			for s := 1; s <= 3; s++ {
				out, err := prog.Call(t.Context(), state[0], put(c.g), state[1], state[2], put([]float64{float64(s)}))
				if err != nil {
					t.Fatal(err)
				}
				state = out
				u := make([]float64, n)
				var pn, un float64
				for i := range p {
					m[i] = b1*m[i] + (1-b1)*c.g[i]
					v[i] = b2*v[i] + (1-b2)*c.g[i]*c.g[i]
					u[i] = m[i]/(math.Sqrt(v[i])+eps) + c.wd*p[i]
					pn, un = pn+p[i]*p[i], un+u[i]*u[i]
				}
				coeff := 1.0
				if pn > 0 && un > 0 {
					coeff = math.Sqrt(pn) / math.Sqrt(un)
				}
				coeff = min(10, max(0.01, coeff))
				size := lr * math.Sqrt(1-math.Pow(b2, float64(s))) / (1 - math.Pow(b1, float64(s)))
				for i := range p {
					p[i] -= size * coeff * u[i]
				}
				got, err := state[0].Float32s()
				if err != nil {
					t.Fatal(err)
				}
				for i := range p {
					near(t, fmt.Sprintf("step %d, value %d", s, i), float64(got[i]), p[i], 2e-6*(1+math.Abs(p[i])))
				}
			}
		})
	}
}
