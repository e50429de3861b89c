package torchfile

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode"

	"github.com/nlpodyssey/gopickle/types"

	"github.com/evatool/evatool/internal/tensorfile"
)

// dtype is an element type as torch names it, without "torch.".
type dtype string

// elemTypes maps torch's element types to those of safetensors. Types that
// safetensors lacks have only a size, which is enough to read past them.
var elemTypes = map[dtype]struct {
	st   tensorfile.DType
	size int64
}{
	"float64": {tensorfile.F64, 8}, "float32": {tensorfile.F32, 4},
	"float16": {tensorfile.F16, 2}, "bfloat16": {tensorfile.BF16, 2},
	"float8_e4m3fn": {tensorfile.F8_E4M3, 1}, "float8_e5m2": {tensorfile.F8_E5M2, 1},
	"int64": {tensorfile.I64, 8}, "int32": {tensorfile.I32, 4},
	"int16": {tensorfile.I16, 2}, "int8": {tensorfile.I8, 1},
	"uint64": {tensorfile.U64, 8}, "uint32": {tensorfile.U32, 4},
	"uint16": {tensorfile.U16, 2}, "uint8": {tensorfile.U8, 1},
	"bool":            {tensorfile.BOOL, 1},
	"float8_e4m3fnuz": {tensorfile.F8_E4M3FNUZ, 1}, "float8_e5m2fnuz": {tensorfile.F8_E5M2FNUZ, 1}, "float8_e8m0fnu": {tensorfile.F8_E8M0, 1},
	"complex32": {"", 4}, "complex64": {"", 8}, "complex128": {"", 16},
	"quint8": {"", 1}, "qint8": {"", 1}, "qint32": {"", 4},
	"quint4x2": {"", 1}, "quint2x4": {"", 1},
	"float4_e2m1fn_x2": {"", 1}, "bcomplex32": {"", 4},
	"bits1x8": {"", 1}, "bits2x4": {"", 1}, "bits4x2": {"", 1}, "bits8": {"", 1}, "bits16": {"", 2},
	"int1": {"", 1}, "int2": {"", 1}, "int3": {"", 1}, "int4": {"", 1}, "int5": {"", 1}, "int6": {"", 1}, "int7": {"", 1},
	"uint1": {"", 1}, "uint2": {"", 1}, "uint3": {"", 1}, "uint4": {"", 1}, "uint5": {"", 1}, "uint6": {"", 1}, "uint7": {"", 1},
}

// constant is a named value such as torch.strided. It is immutable, as all files
// share it.
type constant string

// storageType is the class of a storage: torch.FloatStorage and the like.
type storageType struct {
	name string
	elem dtype // "" for untyped bytes
}

func (t *storageType) size() int64 {
	if t.elem == "" {
		return 1
	}
	return elemTypes[t.elem].size
}

var storageTypes = map[string]dtype{
	"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
	"BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
	"ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
	"BoolStorage": "bool", "ComplexFloatStorage": "complex64",
	"ComplexDoubleStorage": "complex128", "QUInt8Storage": "quint8",
	"QInt8Storage": "qint8", "QInt32Storage": "qint32",
	"QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
	"UntypedStorage": "",
}

var dtypeAliases = map[string]dtype{
	"float": "float32", "double": "float64", "half": "float16", "long": "int64",
	"int": "int32", "short": "int16", "cfloat": "complex64", "cdouble": "complex128",
	"chalf": "complex32",
}

// inertClasses hold plain data and need no code to be run. They are those of
// torch.load(weights_only=True), and what training scripts put beside the weights.
var inertClasses = []string{
	"torch.Size", "torch.device", "torch.layout", "torch.memory_format", "torch.Generator",
	"torch.serialization._get_layout", "torch._utils._get_layout",
	"torch.torch_version.TorchVersion", "torch.version.TorchVersion", "torch.storage.TypedStorage",
	"builtins.set", "builtins.frozenset", "builtins.bytearray", "builtins.complex",
	"builtins.slice", "builtins.range", "builtins.list", "builtins.tuple", "builtins.int",
	"builtins.float", "builtins.bool", "builtins.str", "builtins.bytes", "builtins.object",
	"builtins.long", "builtins.unicode", "builtins.xrange", // int, str and range in protocol 2
	"collections.deque", "datetime.datetime", "datetime.date", "datetime.timedelta",
	"datetime.timezone", "datetime.time", "decimal.Decimal", "fractions.Fraction", "uuid.UUID",
	"argparse.Namespace", "types.SimpleNamespace",
	"pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePath",
	"pathlib.PurePosixPath", "pathlib.PureWindowsPath",
	"pathlib._local.Path", "pathlib._local.PosixPath", "pathlib._local.PurePosixPath",
	"numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar",
	"numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer",
	"numpy.float16", "numpy.float32", "numpy.float64", "numpy.int8", "numpy.int16",
	"numpy.int32", "numpy.int64", "numpy.uint8", "numpy.uint16", "numpy.uint32",
	"numpy.uint64", "numpy.bool_", "numpy.bool", "numpy.str_", "numpy.bytes_",
	"numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor",
	"numpy.random._pickle.__bit_generator_ctor", "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
	"numpy.random.bit_generator.SeedSequence", "numpy.random._mt19937.MT19937", "numpy.random._pcg64.PCG64",
	"numpy.random._philox.Philox", "numpy.random._sfc64.SFC64",
	"numpy.ma.core._mareconstruct", "numpy.ma.core.MaskedArray", "numpy.ma.MaskedArray",
	"easydict.EasyDict", "addict.addict.Dict", "yacs.config.CfgNode", "munch.Munch", "box.box.Box",
	"dotmap.DotMap", "attrdict.dictionary.AttrDict", "ml_collections.config_dict.config_dict.ConfigDict",
	"mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict",
	"pytorch_lightning.utilities.parsing.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
	"lightning.fabric.utilities.data.AttributeDict", "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
	"lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
	"omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig",
	"omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata",
	"omegaconf.nodes.AnyNode", "omegaconf.nodes.StringNode", "omegaconf.nodes.IntegerNode",
	"omegaconf.nodes.FloatNode", "omegaconf.nodes.BooleanNode", "typing.Any", "typing.Dict",
	"deepspeed.runtime.fp16.loss_scaler.LossScaler",
	"deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
	"deepspeed.runtime.zero.config.ZeroStageEnum",
	"deepspeed.utils.tensor_fragment.fragment_address",
}

// refusedTensors are the functions that rebuild tensors which no safetensors file
// can hold, and what to do about these.
var refusedTensors = map[string]string{
	"_rebuild_sparse_tensor":                 "a sparse tensor; call to_dense() before saving",
	"_rebuild_sparse_csr_tensor":             "a sparse tensor; call to_dense() before saving",
	"_rebuild_qtensor":                       "a quantized tensor; call dequantize() before saving",
	"_rebuild_nested_tensor":                 "a nested tensor; call to_padded_tensor() before saving",
	"_rebuild_wrapper_subclass":              "a tensor subclass; save plain tensors",
	"_rebuild_meta_tensor_no_storage":        "a meta tensor without data; save it after loading weights",
	"_rebuild_device_tensor_from_numpy":      "a tensor of another device, stored as numpy; call cpu() before saving",
	"_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device; call cpu() before saving",
	"_rebuild_mlc_tensor":                    "a tensor of another device; call cpu() before saving",
	"_rebuild_xla_tensor":                    "a tensor of another device; call cpu() before saving",
	"_rebuild_ipu_tensor":                    "a tensor of another device; call cpu() before saving",
}

const rebuildJagged = "torch.nested._internal.nested_tensor._rebuild_njt"

var globals = makeGlobals()

func makeGlobals() map[string]any {
	g := map[string]any{}
	def := func(name string, call func(args []any) (any, error)) { g[name] = &class{name, call} }
	for _, name := range inertClasses {
		g[name] = inert(name)
	}
	tensorClass := func(name string) { def(name, newOfClass) }
	for _, name := range []string{"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer",
		"torch.nn.parameter.UninitializedParameter", "torch.nn.parameter.UninitializedBuffer"} {
		tensorClass(name)
	}
	for name, elem := range storageTypes {
		for _, module := range []string{"torch.", "torch.cuda.", "torch.storage."} {
			g[module+name] = &storageType{name, elem}
		}
		// Legacy tar files name tensor types.
		for _, module := range []string{"torch.", "torch.cuda.", "torch.sparse.", "torch.cuda.sparse."} {
			tensorClass(module + strings.Replace(name, "Storage", "Tensor", 1))
		}
	}
	for d := range elemTypes {
		g["torch."+string(d)] = d
	}
	for name, d := range dtypeAliases {
		g["torch."+name] = d
	}
	for _, name := range []string{"strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged", "contiguous_format", "channels_last", "channels_last_3d", "preserve_format", "per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams", "per_tensor_symmetric", "per_channel_symmetric"} {
		g["torch."+name] = constant("torch." + name)
	}
	for _, name := range []string{"Ellipsis", "NotImplemented"} {
		g["builtins."+name] = constant(name)
	}
	for _, t := range []string{"Float64", "Float32", "Float16", "Int64", "Int32", "Int16", "Int8", "UInt64", "UInt32", "UInt16", "UInt8", "Bool"} {
		g["numpy.dtypes."+t+"DType"] = inert("numpy.dtypes." + t + "DType")
	}
	newDict := func(args []any) (any, error) {
		if len(args) == 0 {
			return &dict{}, nil
		}
		return pairs(args[len(args)-1])
	}
	def("collections.OrderedDict", newDict)
	def("collections.Counter", newDict)
	def("builtins.dict", newDict)
	// Its first argument is the class of missing values.
	def("collections.defaultdict", func(args []any) (any, error) { return newDict(args[min(1, len(args)):]) })
	def("_codecs.encode", func(args []any) (any, error) { // bytes in protocol 2
		if len(args) == 2 && args[1] == "latin1" {
			if s, ok := args[0].(string); ok {
				return latin1(s)
			}
		}
		return nil, fmt.Errorf("unexpected arguments")
	})
	def("copyreg._reconstructor", func(args []any) (any, error) {
		if len(args) > 0 {
			if c, ok := args[0].(*class); ok {
				return c.call(nil)
			}
		}
		return nil, fmt.Errorf("unexpected arguments")
	})
	first := func(args []any) (any, error) {
		if len(args) == 0 {
			return nil, fmt.Errorf("no arguments")
		}
		return args[0], nil
	}
	for _, name := range []string{"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "build_complexlist", "restore_type_tag"} {
		def("torch.jit._pickle."+name, first)
	}
	def("torch._utils._rebuild_tensor", rebuildTensor)
	def("torch._utils._rebuild_tensor_v2", rebuildTensor)
	def("torch._utils._rebuild_tensor_v3", rebuildTensorV3)
	def("torch._utils._rebuild_parameter", first)
	def("torch._utils._rebuild_parameter_with_state", first)
	def("torch._tensor._rebuild_from_type_v2", rebuildFromType)
	def("torch._tensor._rebuild_from_type", rebuildFromType)
	refuse := func(name, why string) {
		def(name, func([]any) (any, error) { return &tensor{refused: why}, nil })
	}
	for name, why := range refusedTensors {
		refuse("torch._utils."+name, why)
	}
	refuse(rebuildJagged, refusedTensors["_rebuild_nested_tensor"])
	tensorClass("torch.nested._internal.nested_tensor.NestedTensor")
	return g
}

// newOfClass calls a class of tensors, either with a tensor, as torch 0.4 wrote
// parameters, or without data.
func newOfClass(args []any) (any, error) {
	if len(args) > 0 {
		if t, ok := args[0].(*tensor); ok {
			return t, nil
		}
	}
	return &tensor{refused: "a tensor without data (an uninitialized parameter); run the model once before saving"}, nil
}

// rebuildFromType returns a tensor that has Python attributes without these; args
// are function, type, arguments, state. Only functions that rebuild tensors are
// called.
func rebuildFromType(args []any) (any, error) {
	if len(args) < 3 {
		return nil, fmt.Errorf("%d arguments", len(args))
	}
	fn, ok := args[0].(*class)
	if !ok || !strings.HasPrefix(fn.name, "torch._utils._rebuild_") && fn.name != rebuildJagged {
		return nil, fmt.Errorf("%s is not a function that rebuilds a tensor", text(args[0]))
	}
	inner, ok := elements(args[2])
	if !ok {
		return nil, fmt.Errorf("the arguments are not a tuple")
	}
	return fn.call(inner)
}

// latin1 encodes a text as Latin-1.
func latin1(s string) ([]byte, error) {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return nil, fmt.Errorf("character %q is not a byte", r)
		}
		b = append(b, byte(r))
	}
	return b, nil
}

// kind is the Python type of a value.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int, *big.Int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case []byte:
		return "bytes"
	case *types.ByteArray:
		return "bytearray"
	case *types.List:
		return "list"
	case *types.Tuple:
		return "tuple"
	case *types.Dict, *dict:
		return "dict"
	case *types.Set:
		return "set"
	case *types.FrozenSet:
		return "frozenset"
	case *tensor:
		return "torch.Tensor"
	case *storage:
		return "torch.storage"
	case *storageType:
		return "type"
	case dtype:
		return "torch.dtype"
	case constant:
		return "constant"
	case *class:
		return "type"
	case *object:
		switch v.class {
		case "numpy.core.multiarray.scalar":
			return "numpy scalar"
		case "numpy.core.multiarray._reconstruct":
			return "numpy.ndarray"
		}
		return strings.TrimPrefix(v.class, "builtins.")
	}
	return fmt.Sprintf("%T", v)
}

// maxText bounds the length of a value's text in bytes.
const maxText = 120

// text is a value as short text on one line.
func text(v any) string {
	return oneLine(fullText(v, 3))
}

// oneLine shortens a text and replaces its control characters.
func oneLine(t string) string {
	if len(t) > maxText {
		t = strings.ToValidUTF8(t[:maxText], "") + "..."
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, t)
}

func fullText(v any, depth int) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case int:
		return strconv.Itoa(v)
	case *big.Int:
		return v.String()
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case string:
		return strings.ToValidUTF8(v[:min(len(v), maxText+1)], "?")
	case []byte:
		return fmt.Sprintf("%d bytes", len(v))
	case *types.ByteArray:
		return fmt.Sprintf("%d bytes", len(*v))
	case *types.Set:
		return fmt.Sprintf("%d items", v.Len())
	case *types.FrozenSet:
		return fmt.Sprintf("%d items", v.Len())
	case dtype:
		return "torch." + string(v)
	case constant:
		return string(v)
	case *class:
		return v.name
	case *storageType:
		return "torch." + v.name
	case *object:
		return v.text(depth)
	}
	if e, ok := entries(v); ok {
		return fmt.Sprintf("%d items", len(e))
	}
	if l, ok := elements(v); ok {
		return listText(l, depth)
	}
	return kind(v)
}

// text shows what an object was made of.
func (o *object) text(depth int) string {
	switch o.class {
	case "numpy.core.multiarray.scalar":
		if s, ok := numpyScalar(o.args); ok {
			return s
		}
	case "numpy.core.multiarray._reconstruct": // state: version, shape, ...
		if state, ok := o.state.(*types.Tuple); ok && state.Len() > 1 && depth > 0 {
			return "shape " + fullText(state.Get(1), depth-1)
		}
	}
	l := o.args
	if len(o.items) > 0 { // a deque
		l = o.items
	} else if len(l) == 1 { // set([...]), torch.Size((...))
		if inner, ok := elements(l[0]); ok {
			l = inner
		}
	}
	return listText(l, depth)
}

func listText(l []any, depth int) string {
	if depth == 0 || len(l) > 8 {
		return fmt.Sprintf("%d items", len(l))
	}
	parts := make([]string, len(l))
	for i, x := range l {
		parts[i] = fullText(x, depth-1)
	}
	return "(" + strings.Join(parts, ", ") + ")"
}
