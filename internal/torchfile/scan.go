package torchfile

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"unicode/utf8"
)

// Limits for one pickle stream. A training checkpoint with optimizer state has a
// few hundred kilobytes of pickle; everything large is in the storages.
const (
	maxPickle  = 12 << 20 // bytes of the stream
	maxCost    = 40 << 20 // estimated bytes that its objects may take
	maxMarks   = 1 << 12  // open MARKs
	maxLong    = 256      // bytes of one integer
	maxName    = 1 << 10  // bytes of a module or class name
	maxProto   = 5
	slotCost   = 24
	objectCost = 160
)

// argKind is how an opcode's argument is stored.
type argKind uint8

const (
	argNone argKind = iota
	arg1            // fixed sizes in bytes
	arg2
	arg4
	arg8
	argLine // ends at a newline
	argLen1 // counted by a length of 1, 4 or 8 bytes
	argLen4
	argLen8
)

// op describes an opcode's effect on the stack. mark means that it takes everything
// down to the topmost MARK, and then pop more.
type op struct {
	name string
	arg  argKind
	mark bool
	pop  int
	push int
	cost int // estimated bytes of memory
	item int // the same for each element taken from a MARK
}

// ops are the opcodes that a checkpoint may use. The others are refused: INST, OBJ
// and EXT build objects in ways that no tensor needs; PERSID, STRING, GET and PUT
// belong to protocol 0; the buffer opcodes need a second stream.
var ops = [256]op{
	'(':    {name: "MARK", cost: 288},
	'.':    {name: "STOP", pop: 1},
	'0':    {name: "POP", pop: 1},
	'1':    {name: "POP_MARK", mark: true},
	'2':    {name: "DUP", pop: 1, push: 2, cost: slotCost},
	'I':    {name: "INT", arg: argLine, push: 1, cost: slotCost},
	'J':    {name: "BININT", arg: arg4, push: 1, cost: slotCost},
	'K':    {name: "BININT1", arg: arg1, push: 1, cost: slotCost},
	'L':    {name: "LONG", arg: argLine, push: 1, cost: 48},
	'M':    {name: "BININT2", arg: arg2, push: 1, cost: slotCost},
	'N':    {name: "NONE", push: 1, cost: slotCost},
	'Q':    {name: "BINPERSID", pop: 1, push: 1, cost: objectCost},
	'R':    {name: "REDUCE", pop: 2, push: 1, cost: objectCost},
	'T':    {name: "BINSTRING", arg: argLen4, push: 1, cost: 48},
	'U':    {name: "SHORT_BINSTRING", arg: argLen1, push: 1, cost: 48},
	'X':    {name: "BINUNICODE", arg: argLen4, push: 1, cost: 48},
	'a':    {name: "APPEND", pop: 2, push: 1, cost: 2 * slotCost},
	'b':    {name: "BUILD", pop: 2, push: 1},
	'c':    {name: "GLOBAL", arg: argLine, push: 1, cost: objectCost},
	'd':    {name: "DICT", mark: true, push: 1, cost: objectCost, item: 64},
	'}':    {name: "EMPTY_DICT", push: 1, cost: objectCost},
	'e':    {name: "APPENDS", mark: true, pop: 1, push: 1, item: 32},
	'h':    {name: "BINGET", arg: arg1, push: 1, cost: slotCost},
	'j':    {name: "LONG_BINGET", arg: arg4, push: 1, cost: slotCost},
	'l':    {name: "LIST", mark: true, push: 1, cost: 48},
	']':    {name: "EMPTY_LIST", push: 1, cost: 112},
	'q':    {name: "BINPUT", arg: arg1, pop: 1, push: 1, cost: 48},
	'r':    {name: "LONG_BINPUT", arg: arg4, pop: 1, push: 1, cost: 96},
	's':    {name: "SETITEM", pop: 3, push: 1, cost: 64},
	't':    {name: "TUPLE", mark: true, push: 1, cost: 48},
	')':    {name: "EMPTY_TUPLE", push: 1, cost: 48},
	'u':    {name: "SETITEMS", mark: true, pop: 1, push: 1, item: 64},
	'G':    {name: "BINFLOAT", arg: arg8, push: 1, cost: 32},
	'\x80': {name: "PROTO", arg: arg1},
	'\x81': {name: "NEWOBJ", pop: 2, push: 1, cost: objectCost},
	'\x85': {name: "TUPLE1", pop: 1, push: 1, cost: 64},
	'\x86': {name: "TUPLE2", pop: 2, push: 1, cost: 80},
	'\x87': {name: "TUPLE3", pop: 3, push: 1, cost: 96},
	'\x88': {name: "NEWTRUE", push: 1, cost: slotCost},
	'\x89': {name: "NEWFALSE", push: 1, cost: slotCost},
	'\x8a': {name: "LONG1", arg: argLen1, push: 1, cost: 48},
	'\x8b': {name: "LONG4", arg: argLen4, push: 1, cost: 48},
	'B':    {name: "BINBYTES", arg: argLen4, push: 1, cost: 48},
	'C':    {name: "SHORT_BINBYTES", arg: argLen1, push: 1, cost: 48},
	'\x8c': {name: "SHORT_BINUNICODE", arg: argLen1, push: 1, cost: 48},
	'\x8d': {name: "BINUNICODE8", arg: argLen8, push: 1, cost: 48},
	'\x8e': {name: "BINBYTES8", arg: argLen8, push: 1, cost: 48},
	'\x8f': {name: "EMPTY_SET", push: 1, cost: 320},
	'\x90': {name: "ADDITEMS", mark: true, pop: 1, push: 1, item: 96},
	'\x91': {name: "FROZENSET", mark: true, push: 1, cost: 320, item: 96},
	'\x92': {name: "NEWOBJ_EX", pop: 3, push: 1, cost: objectCost},
	'\x93': {name: "STACK_GLOBAL", pop: 2, push: 1, cost: objectCost},
	'\x94': {name: "MEMOIZE", pop: 1, push: 1, cost: 96},
	'\x95': {name: "FRAME", arg: arg8},
	'\x96': {name: "BYTEARRAY8", arg: argLen8, push: 1, cost: 48},
}

// scanner checks one pickle stream before anything is built from it, and rewrites
// it in a smaller language that the virtual machine handles safely: without frames
// or empty integers, and with class names as persistent ids (see vm.find).
type scanner struct {
	r        *bufio.Reader
	out      bytes.Buffer
	pos      int64 // bytes read
	cost     int
	depth    int   // items since the last MARK
	marks    []int // depths below the open MARKs
	memo     map[uint32]bool
	frameEnd int64
}

// scan reads one pickle from r, up to its STOP, and returns the checked copy
// and the number of bytes read.
func scan(r *bufio.Reader) (checked []byte, n int64, err error) {
	s := &scanner{r: r, memo: map[uint32]bool{}}
	for {
		start := s.pos
		stop, err := s.step()
		if err != nil {
			return nil, s.pos, fmt.Errorf("pickle, byte %d: %w", start, err)
		}
		if stop {
			return s.out.Bytes(), s.pos, nil
		}
	}
}

func (s *scanner) opcode() (byte, error) {
	if s.pos == maxPickle {
		return 0, errTooLong
	}
	c, err := s.r.ReadByte()
	if err != nil {
		return 0, truncated(err)
	}
	s.pos++
	return c, nil
}

var errTooLong = fmt.Errorf("more than %d bytes; a checkpoint keeps its tensors outside the pickle, so this is not one", maxPickle)

func (s *scanner) read(n int) ([]byte, error) {
	if s.pos+int64(n) > maxPickle {
		return nil, errTooLong
	}
	// No memory is allocated for a declared length before its bytes are read.
	var b []byte
	if n <= s.r.Size() {
		b = make([]byte, n)
		m, err := io.ReadFull(s.r, b)
		s.pos += int64(m)
		return b, truncated(err)
	}
	var buf bytes.Buffer
	m, err := io.CopyN(&buf, s.r, int64(n))
	s.pos += m
	return buf.Bytes(), truncated(err)
}

func truncated(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("the data ends here; the file is cut off")
	}
	return err
}

func (s *scanner) line() ([]byte, error) {
	b, err := s.r.ReadSlice('\n')
	s.pos += int64(len(b))
	if err == bufio.ErrBufferFull || len(b) > maxName {
		return nil, fmt.Errorf("a line of more than %d bytes", maxName)
	}
	if err != nil {
		return nil, truncated(err)
	}
	return bytes.Clone(b[:len(b)-1]), nil
}

// argSizes are the sizes in bytes of fixed arguments and of counts.
var argSizes = [...]int{arg1: 1, arg2: 2, arg4: 4, arg8: 8, argLen1: 1, argLen4: 4, argLen8: 8}

// arg reads an opcode's argument; of a counted one it returns only the payload.
func (s *scanner) arg(kind argKind) ([]byte, error) {
	switch kind {
	case argNone:
		return nil, nil
	case argLine:
		return s.line()
	}
	b, err := s.read(argSizes[kind])
	if err != nil || kind < argLen1 {
		return b, err
	}
	var wide [8]byte
	copy(wide[:], b)
	n := binary.LittleEndian.Uint64(wide[:])
	if n > maxPickle {
		return nil, fmt.Errorf("a length of %d bytes", n)
	}
	s.cost += 2 * int(n)
	return s.read(int(n))
}

// step handles one opcode.
func (s *scanner) step() (stop bool, err error) {
	c, err := s.opcode()
	if err != nil {
		return false, err
	}
	o := ops[c]
	if o.name == "" {
		return false, fmt.Errorf("opcode %#02x does not belong in a checkpoint", c)
	}
	arg, err := s.arg(o.arg)
	if err != nil {
		return false, fmt.Errorf("%s: %w", o.name, err)
	}
	items, err := s.effect(c, o)
	if err != nil {
		return false, fmt.Errorf("%s: %w", o.name, err)
	}
	s.cost += o.cost + items*o.item
	if s.cost > maxCost {
		return false, fmt.Errorf("the objects would take more than %d bytes; no checkpoint needs that", maxCost)
	}
	if err := s.emit(c, o, arg); err != nil {
		return false, fmt.Errorf("%s: %w", o.name, err)
	}
	return c == '.', nil
}

// effect follows the stack. It returns the number of items taken from a MARK.
func (s *scanner) effect(c byte, o op) (items int, err error) {
	switch {
	case c == '(':
		if len(s.marks) == maxMarks {
			return 0, fmt.Errorf("more than %d open ones", maxMarks)
		}
		s.marks = append(s.marks, s.depth)
		s.depth = 0
		return 0, nil
	case c == '0' && s.depth == 0: // POP takes a MARK off, too
		o.mark, o.pop = true, 0
	}
	if o.mark {
		if len(s.marks) == 0 {
			return 0, fmt.Errorf("no MARK before it")
		}
		items = s.depth
		s.depth = s.marks[len(s.marks)-1]
		s.marks = s.marks[:len(s.marks)-1]
		if (c == 'u' || c == 'd') && items%2 != 0 {
			return 0, fmt.Errorf("a key without a value")
		}
	}
	if s.depth < o.pop {
		return 0, fmt.Errorf("the stack is empty")
	}
	s.depth += o.push - o.pop
	return items, nil
}

// emit checks the argument and writes the opcode for the virtual machine.
func (s *scanner) emit(c byte, o op, arg []byte) error {
	switch c {
	case '\x80':
		if arg[0] > maxProto {
			return fmt.Errorf("protocol %d; want at most %d", arg[0], maxProto)
		}
	case '\x95': // FRAME: checked, then dropped
		n := binary.LittleEndian.Uint64(arg)
		if s.pos < s.frameEnd {
			return fmt.Errorf("inside another frame")
		}
		if n > maxPickle {
			return fmt.Errorf("a length of %d bytes", n)
		}
		s.frameEnd = s.pos + int64(n)
		return nil
	case '.':
		if s.pos < s.frameEnd {
			return fmt.Errorf("%d bytes before the end of the frame", s.frameEnd-s.pos)
		}
	case 'q', 'r':
		s.memo[memoIndex(arg)] = true
	case '\x94':
		s.memo[uint32(len(s.memo))] = true
	case 'h', 'j':
		if i := memoIndex(arg); !s.memo[i] {
			return fmt.Errorf("memo entry %d was never stored", i)
		}
	case 'X', '\x8c', '\x8d':
		if !utf8.Valid(arg) {
			return fmt.Errorf("text that is not valid UTF-8")
		}
	case '\x8a', '\x8b':
		if len(arg) > maxLong {
			return fmt.Errorf("an integer of %d bytes", len(arg))
		}
		if len(arg) == 0 { // means 0
			s.out.WriteString("K\x00")
			return nil
		}
	case 'c':
		name, err := s.line()
		if err != nil {
			return err
		}
		if !utf8.Valid(arg) || !utf8.Valid(name) {
			return fmt.Errorf("a name that is not valid UTF-8")
		}
		s.counted('X', arg)
		s.counted('X', name)
		s.out.WriteString("\x86Q")
		return nil
	case '\x93':
		s.out.WriteString("\x86Q")
		return nil
	}
	switch o.arg {
	case argLen1, argLen4, argLen8:
		s.counted(c, arg)
	case argLine:
		s.out.WriteByte(c)
		s.out.Write(arg)
		s.out.WriteByte('\n')
	default:
		s.out.WriteByte(c)
		s.out.Write(arg)
	}
	return nil
}

// counted writes an opcode whose argument has a length.
func (s *scanner) counted(c byte, arg []byte) {
	s.out.WriteByte(c)
	switch ops[c].arg {
	case argLen1:
		s.out.WriteByte(byte(len(arg)))
	case argLen4:
		s.out.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(arg))))
	case argLen8:
		s.out.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(arg))))
	}
	s.out.Write(arg)
}

func memoIndex(arg []byte) uint32 {
	if len(arg) == 1 {
		return uint32(arg[0])
	}
	return binary.LittleEndian.Uint32(arg)
}
