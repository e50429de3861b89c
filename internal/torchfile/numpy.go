package torchfile

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/nlpodyssey/gopickle/types"
)

// numpyScalar is the text of a numpy scalar. args are dtype and bytes; the dtype
// has a code such as "f8", and its byte order in its state.
func numpyScalar(args []any) (string, bool) {
	if len(args) != 2 {
		return "", false
	}
	dt, ok := args[0].(*object)
	if !ok || len(dt.args) == 0 {
		return "", false
	}
	code, _ := dt.args[0].(string)
	var raw []byte
	switch b := args[1].(type) {
	case []byte:
		raw = b
	case string: // Python 2
		raw = []byte(b)
	default:
		return "", false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if state, ok := dt.state.(*types.Tuple); ok && state.Len() > 1 && state.Get(1) == ">" {
		order = binary.BigEndian
	}
	if len(code) < 2 || strconv.Itoa(len(raw)) != code[1:] {
		return "", false
	}
	bits, ok := uintOf(order, raw)
	if !ok {
		return "", false
	}
	switch code {
	case "f8":
		return strconv.FormatFloat(math.Float64frombits(bits), 'g', -1, 64), true
	case "f4":
		return strconv.FormatFloat(float64(math.Float32frombits(uint32(bits))), 'g', -1, 32), true
	case "b1":
		return fullText(bits != 0, 0), true
	}
	switch code[0] {
	case 'i':
		shift := 64 - 8*len(raw)
		return strconv.FormatInt(int64(bits<<shift)>>shift, 10), true
	case 'u':
		return strconv.FormatUint(bits, 10), true
	}
	return "", false
}

func uintOf(order binary.ByteOrder, b []byte) (uint64, bool) {
	switch len(b) {
	case 1:
		return uint64(b[0]), true
	case 2:
		return uint64(order.Uint16(b)), true
	case 4:
		return uint64(order.Uint32(b)), true
	case 8:
		return order.Uint64(b), true
	}
	return 0, false
}
