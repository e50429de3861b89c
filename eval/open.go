package eval

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/weights"
)

// OpenOptions say how a model is opened. The zero value is the default.
type OpenOptions struct {
	Config string // architecture name or JSON file, for a file that does not say its own
	Key    string // path of the state dict inside a wrapper
	// Preprocess is how images are prepared, where the file and those beside it do
	// not say or are wrong: openai, inception, imagenet,
	// mean=…,std=…,interpolation=…,resize=…, or a JSON file.
	Preprocess string

	Backend     string // auto (default), go, xla or xla:/path/plugin.so[,option…]
	DeviceCount int    // 0: all of a GPU backend, one of a CPU backend
	Threads     int    // 0: all cores
	DType       string // compute type: fp32 (default), bf16 or fp16

	Batch   int // images per call of the model; 0: 8 on a CPU, 256 on a GPU
	Workers int // decoding goroutines; 0: Threads, or one per core

	CompileCache string // folder of compiled programs; "": the user's cache folder, "off": none

	Offline    bool   // take a named model from the cache only; HF_HUB_OFFLINE=1 means the same
	ModelCache string // folder of fetched models; "": HF_HUB_CACHE, or huggingface_hub's own

	Log *slog.Logger // nil: silent
}

// check finds what is wrong with the options before anything is opened.
func (o OpenOptions) check() error {
	if err := checkCounts(o.Batch, o.Workers, 0, 0); err != nil {
		return err
	}
	return checkDType(o.DType)
}

// Model is an opened model on a backend. Its methods may be called from
// several goroutines.
type Model struct {
	file *checkpoint.Model
	dev  *device.Device
	o    OpenOptions // defaults filled in

	// What Open prepares; a model opened for one job has none of it.
	transform transform
	bias      *float64 // nil: probabilities are a softmax
	scale     float64  // exp(logit_scale)
	images    *batcher[float32]
	texts     *batcher[int32]

	closing context.Context // ends when Close is called
	end     context.CancelFunc
	freed   sync.Once

	mu     sync.Mutex // guards closed
	closed bool
	users  sync.WaitGroup // calls in flight

	reading chan struct{}                        // held by the call that reads words
	words   atomic.Pointer[checkpoint.Tokenizer] // nil until they are read

	warned  sync.Once    // of an assumed preprocessing
	loading sync.Mutex   // guards what follows
	set     *weights.Set // loaded at the first use
	runners map[clip.RunnerOptions]*clip.Runner
}

var errClosed = fault.Usagef("the model is closed")

// open opens the backend and then the file; the weights are loaded when they
// are first needed.
func open(ctx context.Context, path string, o OpenOptions) (_ *Model, err error) {
	if o.Log == nil {
		o.Log = runlog.Discard()
	}
	m := &Model{reading: make(chan struct{}, 1), runners: map[clip.RunnerOptions]*clip.Runner{}}
	m.dev, err = device.Open(ctx, device.Options{
		Backend: o.Backend, DeviceCount: o.DeviceCount, Threads: o.Threads, CompileCache: o.CompileCache, Log: o.Log,
	})
	if err != nil {
		return nil, err
	}
	found, err := hub.Find(ctx, path, hub.Options{Cache: o.ModelCache, Offline: o.Offline, ToRun: true, Log: o.Log})
	if err != nil {
		m.dev.Close()
		return nil, err
	}
	if m.file, err = checkpoint.OpenModel(ctx, found.Path, checkpoint.ModelOptions{ConfigName: o.Config, Key: o.Key, Preprocess: o.Preprocess}); err != nil {
		m.dev.Close()
		return nil, err
	}
	for _, w := range m.file.Warnings {
		o.Log.Warn(w)
	}
	if o.Batch == 0 {
		o.Batch = defaultBatch
		if m.backend() == device.KindCUDA {
			o.Batch = 256
		}
	}
	if o.Workers == 0 {
		o.Workers = o.Threads
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.DType == "" {
		o.DType = "fp32"
	}
	if m.backend() == device.KindGo && o.DType != "fp32" {
		o.Log.Warn("the Go backend computes in fp32", "asked", o.DType)
		o.DType = "fp32"
	}
	m.o = o
	if o.DType != "fp32" && m.arithmetic() == m.backend() {
		o.Log.Info("the weights are rounded, but this processor computes in float32", "dtype", o.DType)
	}
	m.closing, m.end = context.WithCancel(context.Background())
	return m, nil
}

// pixels is how images are prepared; it warns where that is an assumption.
func (m *Model) pixels() arch.Preprocess {
	if m.file.Assumed != "" {
		m.warned.Do(func() { m.o.Log.Warn(m.file.Assumed) })
	}
	return m.file.Preprocess
}

func (m *Model) backend() string { return m.dev.Info().Kind }

// arithmetic is what features depend on besides the weights: the backend and,
// where it computes in half precision, which not every CPU does, the type.
func (m *Model) arithmetic() string {
	if dt, err := weights.ComputeDType(m.dev, m.o.DType); err == nil && dt.IsHalfPrecision() {
		return m.backend() + " " + dt.String()
	}
	return m.backend()
}

// Close stops the calls in flight, which return an error, and frees the model.
// It waits for what the device is computing.
func (m *Model) Close() (err error) {
	defer fault.Public(context.Background(), &err)
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.freed.Do(func() {
		m.end()
		m.users.Wait()
		if m.set != nil {
			m.set.Free()
		}
		err = errors.Join(m.dev.Close(), m.file.Close())
	})
	return err
}

// enter keeps the model from being freed until leave is called. The context
// ends with ctx, or when Close is called.
func (m *Model) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, nil, errClosed
	}
	m.users.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(m.closing, cancel)
	return ctx, func() {
		stop()
		cancel()
		m.users.Done()
	}, nil
}

// orClosed is err, or errClosed where Close is what ended the call.
func (m *Model) orClosed(err error) error {
	if err != nil && m.closing.Err() != nil && errors.Is(err, context.Canceled) {
		return errClosed
	}
	return err
}

// withModel runs f on the model at path, opened for it, or on opened, which
// stays open.
func withModel[R any](ctx context.Context, opened *Model, path string, o OpenOptions, f func(context.Context, *Model) (R, error)) (r R, err error) {
	m := opened
	if m == nil {
		if m, err = open(ctx, path, o); err != nil {
			return r, err
		}
		defer m.Close()
	}
	ctx, leave, err := m.enter(ctx)
	if err != nil {
		return r, err
	}
	defer leave()
	r, err = f(ctx, m)
	return r, m.orClosed(err)
}

// swapped adds a hint to an error about model or data where the data looks like
// a checkpoint.
func swapped(err error, data ...string) error {
	if c := fault.Code(err); c != int(fault.Input) && c != int(fault.Usage) {
		return err
	}
	for _, d := range data {
		if isCheckpoint(d) {
			return fmt.Errorf("%w; %s looks like a checkpoint: are Options.Model and Options.Data swapped?", err, fault.Name(d))
		}
	}
	return err
}

// isCheckpoint says whether a path that is given as data looks like a model's.
func isCheckpoint(path string) bool {
	if st, err := os.Stat(path); err != nil {
		return false
	} else if st.IsDir() {
		for _, name := range []string{"model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin", "open_clip_model.safetensors", "final.safetensors"} {
			if _, err := os.Stat(filepath.Join(path, name)); err == nil {
				return true
			}
		}
		return false
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".pt", ".pth", ".bin", ".ckpt":
		return true
	case ".safetensors":
		f, err := tensorfile.OpenFile(path)
		if err != nil {
			return false
		}
		defer f.Close()
		_, images := findTensor(f, "images")
		return !images
	}
	return false
}

// checkModel says whether there is one model, and one way to open it.
func checkModel(opened *Model, path string, o OpenOptions) error {
	if opened == nil {
		return o.check()
	}
	o.Batch, o.Workers, o.Log = 0, 0, nil
	if path != "" || o != (OpenOptions{}) {
		return fault.Usagef("Opened is a model that is already open; leave out what says how to open one (Model, Config, Key, Preprocess, Backend, DeviceCount, Threads, DType, CompileCache, Offline, ModelCache)")
	}
	return nil
}

// info names the model in results.
func (m *Model) info() ModelInfo {
	return ModelInfo{File: m.file.Path, SHA256: m.file.SHA256, Config: m.file.Name, Weights: weightsOf(m.file.Path, m.file.SHA256), Preprocess: Preprocess(m.file.Preprocess)}
}

// runner is the model for calls of o's size, seen as architecture cfg; it is
// kept when that is the model's own. free releases what is not kept.
func (m *Model) runner(ctx context.Context, cfg *arch.Config, o clip.RunnerOptions) (r *clip.Runner, free func(), err error) {
	if cfg != m.file.Config || o.DType != m.o.DType {
		set, err := weights.Load(ctx, m.dev, cfg, m.file.Source, o.DType)
		if err != nil {
			return nil, nil, err
		}
		if r, err = clip.NewRunner(m.dev, set, o); err != nil {
			set.Free()
			return nil, nil, err
		}
		return r, set.Free, nil
	}
	m.loading.Lock()
	defer m.loading.Unlock()
	if m.set == nil {
		if m.set, err = weights.Load(ctx, m.dev, cfg, m.file.Source, o.DType); err != nil {
			return nil, nil, err
		}
	}
	if r = m.runners[o]; r == nil {
		if r, err = clip.NewRunner(m.dev, m.set, o); err != nil {
			return nil, nil, err
		}
		m.runners[o] = r
	}
	return r, func() {}, nil
}

// textBatch is the least number of texts of a full call. They are short: a CPU
// is fastest with few images and many texts.
const textBatch = 64

// calls is how many rows a call of each tower takes, no more than there are: a
// call is padded to its full number.
func calls(batch int, dtype string, images, texts int) clip.RunnerOptions {
	return clip.RunnerOptions{DType: dtype, Images: max(1, min(batch, images)), Texts: max(1, min(max(batch, textBatch), texts))}
}

// textTokens is the model's tokenizer or, where the weights' folder has none,
// that of the repository which its configuration names. A failure is not kept:
// it may be that of a context or of the network.
func (m *Model) textTokens(ctx context.Context) (checkpoint.Tokenizer, error) {
	if t := m.words.Load(); t != nil {
		return *t, nil
	}
	select {
	case m.reading <- struct{}{}:
		defer func() { <-m.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if t := m.words.Load(); t != nil { // read by another call meanwhile
		return *t, nil
	}
	t, err := m.file.Texts("")
	if errors.Is(err, checkpoint.ErrNoTokenizer) {
		name, _ := m.file.Config.OtherTokenizer()
		found, ferr := hub.FindTokenizer(ctx, name, hub.Options{Cache: m.o.ModelCache, Offline: m.o.Offline, Log: m.o.Log})
		if ferr == nil {
			t, err = m.file.Texts(filepath.Dir(found.Path))
		} else {
			err = fmt.Errorf("%w; looking for it on the hub failed: %w", err, ferr)
		}
	}
	if err != nil {
		return nil, fault.As(fault.Input, fmt.Errorf("%s: %w", m.file.Path, err))
	}
	m.words.Store(&t)
	return t, nil
}
