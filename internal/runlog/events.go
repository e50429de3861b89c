package runlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Events writes a TensorBoard event file: TFRecord frames (length, masked
// CRC-32C, bytes, masked CRC-32C) around tensorflow.Event messages.
type Events struct {
	f   *os.File
	now func() time.Time
}

// OpenEvents starts a new event file in dir. TensorBoard merges the files of a
// folder, so a resumed run opens another one.
func OpenEvents(dir string) (*Events, error) {
	name := fmt.Sprintf("events.out.tfevents.%010d.evatool.%d", time.Now().Unix(), os.Getpid())
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	e := &Events{f: f, now: time.Now}
	// Event.file_version = 3
	if err := e.event(0, 3, []byte("brain.Event:2")); err != nil {
		f.Close()
		return nil, err
	}
	return e, nil
}

// Scalar adds one point of the curve tag.
func (e *Events) Scalar(tag string, step int64, v float64) error {
	var val []byte // Summary.Value{tag = 1, simple_value = 2}
	val = protowire.AppendTag(val, 1, protowire.BytesType)
	val = protowire.AppendString(val, tag)
	val = protowire.AppendTag(val, 2, protowire.Fixed32Type)
	val = protowire.AppendFixed32(val, math.Float32bits(float32(v)))
	var sum []byte // Summary{value = 1}
	sum = protowire.AppendTag(sum, 1, protowire.BytesType)
	sum = protowire.AppendBytes(sum, val)
	return e.event(step, 5, sum) // Event.summary = 5
}

func (e *Events) event(step int64, field protowire.Number, payload []byte) error {
	var ev []byte // Event{wall_time = 1 double, step = 2 int64}
	ev = protowire.AppendTag(ev, 1, protowire.Fixed64Type)
	ev = protowire.AppendFixed64(ev, math.Float64bits(float64(e.now().UnixNano())/1e9))
	ev = protowire.AppendTag(ev, 2, protowire.VarintType)
	ev = protowire.AppendVarint(ev, uint64(step))
	ev = protowire.AppendTag(ev, field, protowire.BytesType)
	ev = protowire.AppendBytes(ev, payload)

	rec := binary.LittleEndian.AppendUint64(nil, uint64(len(ev)))
	rec = binary.LittleEndian.AppendUint32(rec, maskedCRC(rec[:8]))
	rec = append(rec, ev...)
	rec = binary.LittleEndian.AppendUint32(rec, maskedCRC(ev))
	if _, err := e.f.Write(rec); err != nil {
		return fmt.Errorf("write %s: %w", e.f.Name(), err)
	}
	return nil
}

// Close closes the file.
func (e *Events) Close() error { return e.f.Close() }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is TFRecord's rotated CRC-32C.
func maskedCRC(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}
