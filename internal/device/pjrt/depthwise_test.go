//go:build cgo

package pjrt

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestDepthwise compares the kernels with the sum in float64: borders, strides,
// channels that fill no vector, maps smaller than the kernel, several bands.
func TestDepthwise(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, g := range []geometry{
		{batch: 2, height: 14, width: 14, channels: 32, kh: 7, kw: 7, outHeight: 14, outWidth: 14, top: 3, left: 3, sy: 1, sx: 1},
		{batch: 1, height: 56, width: 56, channels: 16, kh: 3, kw: 3, outHeight: 28, outWidth: 28, top: 1, left: 1, sy: 2, sx: 2},
		{batch: 3, height: 8, width: 5, channels: 17, kh: 5, kw: 3, outHeight: 8, outWidth: 5, top: 2, left: 1, sy: 1, sx: 1},
		{batch: 1, height: 2, width: 3, channels: 1, kh: 7, kw: 7, outHeight: 2, outWidth: 3, top: 3, left: 3, sy: 1, sx: 1},
		{batch: 1, height: 9, width: 130, channels: 40, kh: 7, kw: 7, outHeight: 3, outWidth: 65, top: 3, left: 3, sy: 3, sx: 2},
		{batch: 1, height: 5, width: 5, channels: 8, kh: 3, kw: 3, outHeight: 3, outWidth: 3, sy: 1, sx: 1}, // no zeros
		{batch: 1, height: 1, width: 1, channels: 3, kh: 1, kw: 1, outHeight: 4, outWidth: 4, top: 1, left: 2, sy: 1, sx: 1},
	} {
		x, w := make([]float32, g.batch*g.height*g.width*g.channels), make([]float32, g.kh*g.kw*g.channels)
		for _, s := range [][]float32{x, w} {
			for i := range s {
				s[i] = r.Float32() - 0.5
			}
		}
		want := make([]float64, g.batch*g.outHeight*g.outWidth*g.channels)
		for i := range want {
			c, ox, oy, b := i%g.channels, i/g.channels%g.outWidth, i/g.channels/g.outWidth%g.outHeight, i/g.channels/g.outWidth/g.outHeight
			for dy := range g.kh {
				for dx := range g.kw {
					if iy, ix := oy*g.sy+dy-g.top, ox*g.sx+dx-g.left; iy >= 0 && iy < g.height && ix >= 0 && ix < g.width {
						want[i] += float64(x[((b*g.height+iy)*g.width+ix)*g.channels+c]) * float64(w[(dy*g.kw+dx)*g.channels+c])
					}
				}
			}
		}
		for simd := range simdOfDepthwise() + 1 {
			t.Run(fmt.Sprintf("%dx%dx%d/simd%d", g.height, g.width, g.channels, simd), func(t *testing.T) {
				y := make([]float32, len(want)+1)
				y[len(want)] = 7
				runDepthwise(g, x, w, y[:len(want)], simd)
				for i := range want {
					if math.IsNaN(float64(y[i])) || math.Abs(float64(y[i])-want[i]) > 1e-5 {
						t.Fatalf("output %d is %g, want %g", i, y[i], want[i])
					}
				}
				if y[len(want)] != 7 {
					t.Error("written behind the end")
				}
			})
		}
	}
}

// TestCallDepthwise: a convolution with a group for each channel becomes a call;
// one with fewer groups, or with several outputs for each, stays as it is.
func TestCallDepthwise(t *testing.T) {
	const program = `    %%2 = "stablehlo.convolution"(%%arg0, %%1) {
      batch_group_count = 1 : i64,
      dimension_numbers = #stablehlo.conv<[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]>,
      feature_group_count = %d : i64,
      lhs_dilation = array<i64: 1, 1>,
      padding = dense<[[1, 1], [2, 2]]> : tensor<2x2xi64>,
      precision_config = [#stablehlo<precision DEFAULT>, #stablehlo<precision DEFAULT>],
      rhs_dilation = array<i64: 1, 1>,
      window_reversal = array<i1: false, false>,
      window_strides = array<i64: 3, 4>
    } : (tensor<8x56x56x%dx%s>, tensor<3x5x1x%dx%[3]s>) -> tensor<8x19x14x%[4]dx%[3]s>
`
	for _, c := range []struct {
		groups, in, out int
		dtype           string
		want            bool
	}{{64, 64, 64, "f32", true}, {64, 64, 128, "f32", false}, {1, 1, 64, "f32", false}, {64, 64, 64, "bf16", false}} {
		before := fmt.Sprintf(program, c.groups, c.in, c.dtype, c.out)
		after := string(callDepthwise([]byte(before), 5))
		if got := after != before; got != c.want {
			t.Errorf("%+v: changed %t\n%s", c, got, after)
		} else if got && !strings.Contains(after, "{geometry = array<i64: 1, 2, 3, 4, 5>}") {
			t.Errorf("%+v: %s", c, after)
		}
	}
}
