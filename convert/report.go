package convert

// Report says what Run did; it is written beside the output as
// OUT.report.json.
type Report struct {
	Output     string       `json:"output"`
	Source     []SourceFile `json:"source"`
	Container  string       `json:"container"`
	Family     string       `json:"family"`
	Layout     string       `json:"layout"`
	Config     string       `json:"config"`     // the architecture's name, or "custom"
	Recognised string       `json:"recognised"` // how the architecture became known
	TensorsIn  int          `json:"tensors_in"`
	TensorsOut int          `json:"tensors_out"`
	Dropped    []Dropped    `json:"dropped"`
	Renamed    int          `json:"renamed"`
	Cast       int          `json:"cast"`
	Resized    []Resized    `json:"resized"`
	Tensors    []Tensor     `json:"tensors"`
	Other      []OtherEntry `json:"other"` // what the source holds besides tensors; inert
	Warnings   []string     `json:"warnings"`
	Files      []SourceFile `json:"files"` // what was written
	Seconds    float64      `json:"seconds"`
	Bytes      int64        `json:"bytes"`
	PeakRSS    int64        `json:"peak_rss"`
	Verified   bool         `json:"verified"` // read back and compared with the source
	DryRun     bool         `json:"dry_run,omitempty"`
}

// SourceFile is a file that was read or written.
type SourceFile struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Dropped is a source tensor that was left out.
type Dropped struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Resized is a tensor that was interpolated to another grid.
type Resized struct {
	Name   string  `json:"name"`
	From   []int64 `json:"from"`
	To     []int64 `json:"to"`
	Method string  `json:"method"`
}

// Tensor is one output tensor.
type Tensor struct {
	Name   string   `json:"name"`
	From   []string `json:"from"`
	DType  string   `json:"dtype"`
	Shape  []int64  `json:"shape"`
	SHA256 string   `json:"sha256"` // of its bytes, little-endian, row-major
}

// OtherEntry is something in a source file that is not a tensor.
type OtherEntry struct {
	Path  string `json:"path"`
	Kind  string `json:"kind"`
	Value string `json:"value"`
}
