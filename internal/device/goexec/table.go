//go:build amd64 && goexperiment.simd

package goexec

import (
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"

	"github.com/evatool/evatool/internal/device/kernels"
	"github.com/evatool/evatool/internal/device/pin"
)

// executor is gobackend's NodeExecutor: pointers to its Backend, Node and
// Buffers. It may take over the memory of an input that is owned, by setting it
// to nil in inputs.
type executor = func(backend, node unsafe.Pointer, inputs []unsafe.Pointer, owned []bool) (unsafe.Pointer, error)

//go:linkname nodeExecutors github.com/gomlx/compute/internal/gobackend.nodeExecutors
var nodeExecutors [compute.OpTypeLast]executor

//go:linkname getBuffer github.com/gomlx/compute/internal/gobackend.(*Backend).GetBuffer
func getBuffer(backend unsafe.Pointer, shape shapes.Shape) (unsafe.Pointer, error)

// The backend's types, and where in a Node its shape and data are.
var (
	bufferType, nodeType  reflect.Type
	shapeField, dataField []int
)

// known finds the types, from the first backend given to Use, and says whether
// everything is as expected.
var known = sync.OnceValue(func() bool {
	b, err := gobackend.New("")
	if err != nil {
		return false
	}
	defer b.Finalize()
	scalar := shapes.Make(dtypes.Float32)
	buffer, err := b.BufferFromFlatData(0, []float32{0}, scalar)
	if err != nil {
		return false
	}
	value, err := b.Builder("probe").Main().Parameter("x", scalar, nil)
	if err != nil {
		return false
	}
	bufferType, nodeType = reflect.TypeOf(buffer).Elem(), reflect.TypeOf(value).Elem()
	shape, ok1 := nodeType.FieldByName("Shape")
	data, ok2 := nodeType.FieldByName("Data")
	shapeField, dataField = shape.Index, data.Index
	get, ok3 := reflect.TypeOf(b).MethodByName("GetBuffer")
	return ok1 && ok2 && ok3 && shape.Type == reflect.TypeFor[shapes.Shape]() && data.Type == reflect.TypeFor[any]() &&
		get.Type.NumIn() == 2 && get.Type.In(1) == shape.Type && get.Type.NumOut() == 2 && get.Type.Out(0) == reflect.PointerTo(bufferType)
})

// user is a backend that runs these executors.
type user struct {
	backend unsafe.Pointer
	threads kernels.Threads
}

// users are all of them; there are few. The slice is never changed, only
// replaced.
var (
	users   atomic.Pointer[[]user]
	usersMu sync.Mutex
)

func use(b compute.Backend, threads kernels.Threads) bool {
	if !installed || !known() {
		return false
	}
	usersMu.Lock()
	defer usersMu.Unlock()
	all := append(slices.Clone(*users.Load()), user{reflect.ValueOf(b).UnsafePointer(), threads})
	users.Store(&all)
	return true
}

func uses(b compute.Backend) bool {
	v := reflect.ValueOf(b)
	return v.Kind() == reflect.Pointer && userOf(v.UnsafePointer()) != nil
}

func release(b compute.Backend) {
	usersMu.Lock()
	defer usersMu.Unlock()
	p := reflect.ValueOf(b).UnsafePointer()
	left := slices.DeleteFunc(slices.Clone(*users.Load()), func(u user) bool { return u.backend == p })
	users.Store(&left)
}

// userOf is the user that stands for a backend, or nil.
func userOf(backend unsafe.Pointer) *user {
	all := *users.Load()
	for i := range all {
		if all[i].backend == backend {
			return &all[i]
		}
	}
	return nil
}

// installed says whether the executors are in the table.
var installed = install()

func install() bool {
	users.Store(&[]user{})
	if !kernels.Fast || !pin.Linked(pin.Compute) {
		return false
	}
	for op, run := range executors {
		if run != nil && nodeExecutors[op] == nil {
			return false
		}
	}
	for op, stock := range nodeExecutors {
		if executors[op] == nil {
			continue
		}
		nodeExecutors[op] = func(backend, node unsafe.Pointer, inputs []unsafe.Pointer, owned []bool) (unsafe.Pointer, error) {
			u := userOf(backend)
			if u == nil {
				return stock(backend, node, inputs, owned)
			}
			c := call{backend: backend, node: reflect.NewAt(nodeType, node).Elem(), inputs: inputs, owned: owned, threads: u.threads}
			if executors[op](&c) {
				return c.output, c.err
			}
			return stock(backend, node, inputs, owned)
		}
	}
	return true
}

// call is one execution of a node.
type call struct {
	backend unsafe.Pointer
	node    reflect.Value
	inputs  []unsafe.Pointer
	owned   []bool
	threads kernels.Threads
	output  unsafe.Pointer
	err     error
}

// tensor is the content of a buffer.
type tensor struct {
	flat []float32
	dims []int
}

// load reads a buffer, if it holds float32 values.
func load(p unsafe.Pointer) (tensor, bool) {
	b := reflect.NewAt(bufferType, p).Interface().(compute.Buffer)
	shape, err := b.Shape()
	if err != nil {
		return tensor{}, false
	}
	data, err := b.Data()
	flat, ok := data.([]float32)
	return tensor{flat, shape.Dimensions}, ok && err == nil
}

// in is input i, if it is float32.
func (c *call) in(i int) (tensor, bool) { return load(c.inputs[i]) }

// data holds the operation's parameters.
func (c *call) data() any { return c.node.FieldByIndex(dataField).Interface() }

// field is a field of the operation's parameters, a pointer to a struct.
func (c *call) field(name string) reflect.Value {
	return reflect.ValueOf(c.data()).Elem().FieldByName(name)
}

// out makes the output, in the memory of the first of the inputs in reuse that
// may be taken and has as many elements, else in new memory.
func (c *call) out(reuse ...int) (tensor, bool) {
	shape := c.node.FieldByIndex(shapeField).Interface().(shapes.Shape)
	for _, i := range reuse {
		if x, ok := c.in(i); ok && c.owned[i] && len(x.dims) == len(shape.Dimensions) && len(x.flat) == shape.Size() {
			c.output, c.inputs[i] = c.inputs[i], nil
			return x, true
		}
	}
	if c.output, c.err = getBuffer(c.backend, shape); c.err != nil {
		return tensor{}, false
	}
	return load(c.output)
}
