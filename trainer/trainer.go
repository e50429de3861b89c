// Package trainer trains CLIP models: a recipe goes in, a model file comes out.
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//
//		"github.com/evatool/evatool/trainer"
//	)
//
//	func main() {
//		r, err := trainer.LoadRecipe("recipe.yaml", "lr.vision=1e-4")
//		if err != nil {
//			log.Fatal(err)
//		}
//		res, err := trainer.Run(context.Background(), r, trainer.Options{Out: "runs/one"})
//		if err != nil {
//			log.Fatal(err)
//		}
//		fmt.Println(res.Model, res.Loss)
//	}
//
// A run is a pure function of its recipe, its data and the backend: stopped at
// any moment and resumed, it writes the same bits as one that never stopped.
package trainer

import (
	"encoding/json"
	"io"
	"log/slog"
	"math"
	"time"

	"github.com/evatool/evatool/internal/comm"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
)

// Options say how to run a recipe. They change nothing about the result.
type Options struct {
	Out       string // run folder; "": runs/ and the time
	Resume    string // auto (default), never, or a checkpoint folder: of Out, or of another run, which Out then forks
	StopAfter int64  // stop with a checkpoint after so many steps of this process; 0: at the recipe's end

	Backend      string // auto (default), go, xla or xla:/path/plugin.so[,option…]
	DeviceCount  int    // 0: all of a GPU backend, one of a CPU backend
	Threads      int    // 0: all cores
	CompileCache string // folder of compiled programs; "": the user's cache folder, "off": none

	// Hosts is auto (default) or off. Processes that mpirun or srun started
	// together train one recipe together; with off each trains by itself, into its
	// own Out.
	Hosts string
	// ExchangeTimeout is how long a process of such a job waits for the others
	// before it names those that do not answer and ends the job; until the first
	// step is done, six times as long. 0: 10 minutes.
	ExchangeTimeout time.Duration

	Offline    bool   // take the names in the recipe's init from the cache only; HF_HUB_OFFLINE=1 has the same effect
	ModelCache string // folder of fetched models; "": HF_HUB_CACHE, or huggingface_hub's own

	Workers int          // decoding goroutines; 0: one per core
	Log     *slog.Logger // nil: silent
	// Progress is called after every step, from the run's own goroutine, one
	// step late. It may be nil.
	Progress func(Step)
	// Phase is called with what the run does while it takes no steps: "opening",
	// "compiling", "evaluating …", and with "" when steps continue. It may be nil.
	Phase func(string)

	fakes fakes
}

// fakes are what tests replace the outside world with.
type fakes struct {
	reading reading
	lines   func(path string, keepThrough int64) (jsonLines, error)
	create  func(path string) (io.WriteCloser, error) // a file of a checkpoint
	world   comm.Comm
	retry   time.Duration // on a full disk
}

func (o *Options) check() error {
	if o.StopAfter < 0 {
		return fault.Usagef("Options.StopAfter %d: want a number of steps, or 0 for all of them", o.StopAfter)
	}
	if o.Workers < 0 {
		return fault.Usagef("Options.Workers %d: want 0 or more", o.Workers)
	}
	if t := o.ExchangeTimeout; t != 0 && t < time.Second || t > 1000*time.Hour {
		return fault.Usagef("Options.ExchangeTimeout %v: want 1s to 1000h", o.ExchangeTimeout)
	}
	_, err := comm.Launched(comm.Options{Hosts: o.Hosts})
	return err
}

func (o *Options) device() device.Options {
	return device.Options{Backend: o.Backend, DeviceCount: o.DeviceCount, Threads: o.Threads, CompileCache: o.CompileCache, Log: o.Log}
}

// Step is one optimizer step: a line of metrics.jsonl.
type Step struct {
	Step       int64              `json:"step"`    // steps done, this one included
	Samples    int64              `json:"samples"` // image–text pairs seen
	Loss       float64            `json:"loss"`
	LR         map[string]float64 `json:"lr"`
	LogitScale float64            `json:"logit_scale"` // exp of the parameter, after the step
	GradNorm   float64            `json:"grad_norm"`   // before clipping
	LossScale  float64            `json:"loss_scale"`
	Skipped    int64              `json:"skipped"`            // steps so far that fp16 overflow turned into no-ops
	Rate       float64            `json:"samples_per_second"` // batch / Seconds
	DataWait   float64            `json:"data_wait_s"`
	Seconds    float64            `json:"seconds"` // since the end of the step before, evaluations left out

	// In a job of several processes: what each exchanged with the others, and
	// which of them took longest over its own work, waiting for data included.
	ExchangeSeconds float64 `json:"exchange_s,omitempty"`
	ExchangeBytes   int64   `json:"exchange_bytes,omitempty"` // sent; as many were received
	SlowestRank     *int    `json:"slowest_rank,omitempty"`
	SlowestWait     float64 `json:"slowest_data_wait_s,omitempty"`

	Total int64 `json:"-"` // steps of the whole run
}

// MarshalJSON writes null for a loss or a gradient norm that is not finite: an
// fp16 step that overflowed and was skipped.
func (s Step) MarshalJSON() ([]byte, error) {
	type plain Step
	if b, err := json.Marshal(plain(s)); err == nil {
		return b, nil
	}
	number := func(v float64) any {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
		return v
	}
	loss, norm := number(s.Loss), number(s.GradNorm)
	s.Loss, s.GradNorm = 0, 0
	return json.Marshal(struct {
		plain
		Loss     any `json:"loss"`
		GradNorm any `json:"grad_norm"`
	}{plain(s), loss, norm})
}

// UnmarshalJSON reads what MarshalJSON writes: null is NaN.
func (s *Step) UnmarshalJSON(text []byte) error {
	type plain Step
	v := struct {
		*plain
		Loss     *float64 `json:"loss"`
		GradNorm *float64 `json:"grad_norm"`
	}{plain: (*plain)(s)}
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	number := func(v *float64) float64 {
		if v == nil {
			return math.NaN()
		}
		return *v
	}
	s.Loss, s.GradNorm = number(v.Loss), number(v.GradNorm)
	return nil
}

// Eval is one evaluation: a line of metrics.jsonl.
type Eval struct {
	Step      int64   `json:"step"`
	Benchmark string  `json:"benchmark"`
	Top1      float64 `json:"top1"` // fraction
	Top5      float64 `json:"top5"`
	N         int     `json:"n"`
	Classes   int     `json:"classes"` // one of which is right: chance is 1 / Classes for top-1
	Seconds   float64 `json:"seconds"`
}

// Result is what a finished run leaves.
type Result struct {
	Out        string  `json:"out"`
	Model      string  `json:"model"`      // final.safetensors: the weights at the end, or where StopAfter stopped
	Checkpoint string  `json:"checkpoint"` // the newest one; its model.safetensors is also a model file
	Steps      int64   `json:"steps"`
	Samples    int64   `json:"samples"`
	Loss       float64 `json:"loss"`    // mean of the last 10 steps of this process
	Seconds    float64 `json:"seconds"` // of the process that ended it
	DataWait   float64 `json:"data_wait_s"`
	Bad        int64   `json:"bad_samples"`
	Curve      []Step  `json:"-"` // every step, including those of earlier processes
	Evals      []Eval  `json:"evals"`
	Rank       int     `json:"-"` // of this process in its job; rank 0 reports to the user
}

// Error is what errors.As finds in every error of this package:
//
//	var e trainer.Error
//	if errors.As(err, &e) && e.Kind() == trainer.KindInput { … }
type Error interface {
	error
	Kind() string
}

// The kinds of errors. An interrupted call's error also matches the error of its
// context in errors.Is.
const (
	KindUsage       = "usage"       // an option or a recipe key
	KindInput       = "input"       // a file, a dataset
	KindEnvironment = "environment" // no such backend, no space, no permission
	KindCheck       = "check"       // a check that was asked for failed
	KindInterrupted = "interrupted" // by the context
)
