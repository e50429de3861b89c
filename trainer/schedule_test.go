package trainer

import (
	"fmt"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/device"
)

func TestSchedule(t *testing.T) {
	var want struct {
		Tables []struct {
			Warmup int64
			Total  int64 `json:"total_steps"`
			LR     [][3]float64
		}
	}
	readJSON(t, &want, "train", "schedule.json")
	peak := [3]float64{2e-4 * 0.75 * 0.75 * 0.75, 2e-5, 5e-4}
	for _, table := range want.Tables {
		for s, row := range table.LR {
			for g := range row {
				got := peak[g] * warmupCosine(int64(s), table.Warmup, table.Total)
				near(t, fmt.Sprintf("warm-up %d of %d, step %d, group %d", table.Warmup, table.Total, s, g), got, row[g], 1e-12*peak[g])
			}
		}
	}
}

// TestLossScale replays both rules of the original stacks: torch's GradScaler
// is DeepSpeed's without hysteresis and without a floor.
func TestLossScale(t *testing.T) {
	var want struct {
		Simulations []struct {
			Scaler string
			Params struct {
				Init       *float64 `json:"init"`
				InitScale  *float64 `json:"init_scale"`
				Window     float64  `json:"scale_window"`
				Interval   float64
				Min        float64 `json:"min_scale"`
				Hysteresis float64 `json:"delayed_shift"`
			}
			Overflow []int
			Scales   []float64 `json:"scale_after_each_step"`
		}
	}
	readJSON(t, &want, "facts", "loss_scaling.json")
	dev := onDevice(t, 0)
	for i, sim := range want.Simulations {
		p := sim.Params
		rule, start := lossScaleRule{p.Window, p.Hysteresis, p.Min}, 65536.0
		if sim.Scaler == "torch_gradscaler" {
			rule = lossScaleRule{p.Interval, 1, 0}
		}
		for _, v := range []*float64{p.Init, p.InitScale} {
			if v != nil {
				start = *v
			}
		}
		prog := dev.Program("loss-scale", func(in []*Node) []*Node {
			a, b, c := rule.next(in[0], in[1], in[2], in[3])
			return []*Node{a, b, c}
		})
		put := func(v *tensors.Tensor) *device.Array {
			a, err := dev.Put(device.Replicated, v)
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		state := []*device.Array{put(tensors.FromScalar(float32(start))), put(tensors.FromScalar(int32(0))), put(tensors.FromScalar(int32(rule.hysteresis)))}
		for s, over := range sim.Overflow {
			out, err := prog.Call(t.Context(), append([]*device.Array{put(tensors.FromScalar(over == 0))}, state...)...)
			if err != nil {
				t.Fatal(err)
			}
			state = out
			got, err := state[0].Float32s()
			if err != nil {
				t.Fatal(err)
			}
			if float64(got[0]) != sim.Scales[s] {
				t.Fatalf("simulation %d (%s), step %d: scale %v, want %v", i, sim.Scaler, s, got[0], sim.Scales[s])
			}
		}
	}
}
