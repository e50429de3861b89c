package eval

import (
	"bytes"
	"encoding/json"
	"math"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/logistic"
	"github.com/evatool/evatool/internal/tensorfile"
)

// headFile is the regression of a probe: weight [classes,dim] and bias [classes],
// both F64. A class that was not learned has weight 0 and bias −∞.
const headFile = "head.safetensors"

// HeadInfo names the file of a probe's regression.
type HeadInfo struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

// learned is a regression over the classes that its training set has.
type learned struct {
	model   *logistic.Model
	classes []int // ascending
}

// rank fills in a row's answers from the logits of the learned classes. They are
// rounded with the best one at 0, so that close ones stay apart.
func (l *learned) rank(r *row, logits []float64) {
	most := slices.Max(logits)
	shifted := make([]float32, len(logits))
	for k, v := range logits {
		shifted[k] = float32(v - most)
	}
	r.rank(shifted)
	r.Logit = float32(most)
	for k, c := range r.Top {
		if c >= 0 {
			r.Top[k] = l.classes[c]
		}
	}
}

// answer fills in the answers to a unit feature.
func (l *learned) answer(r *row, feature []float32) {
	logits := make([]float64, len(l.classes))
	for k := range logits {
		logits[k] = l.at(k, feature)
	}
	l.rank(r, logits)
}

// logit is that of a class.
func (l *learned) logit(class int, feature []float32) float64 {
	k, ok := slices.BinarySearch(l.classes, class)
	if !ok {
		return math.Inf(-1)
	}
	return l.at(k, feature)
}

func (l *learned) at(k int, feature []float32) float64 {
	sum := l.model.B[k]
	for j, w := range l.model.W[k] {
		sum += w * float64(feature[j])
	}
	return sum
}

// lengths are those of the classes' weights.
func (l *learned) lengths(classes int) []float64 {
	out := make([]float64, classes)
	for k, c := range l.classes {
		sum := 0.0
		for _, w := range l.model.W[k] {
			sum += w * w
		}
		out[c] = math.Sqrt(sum)
	}
	return out
}

// save writes headFile.
func (l *learned) save(dir string, res *ProbeResult) (*HeadInfo, error) {
	dim := len(l.model.W[0])
	weight, bias := make([]float64, res.Classes*dim), make([]float64, res.Classes)
	for c := range bias {
		bias[c] = math.Inf(-1)
	}
	for k, c := range l.classes {
		copy(weight[c*dim:], l.model.W[k])
		bias[c] = l.model.B[k]
	}
	names, err := json.Marshal(res.names())
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, headFile)
	err = tensorfile.WriteFile(path, []tensorfile.Tensor{
		{Info: tensorfile.Info{Name: "weight", DType: tensorfile.F64, Shape: []int64{int64(res.Classes), int64(dim)}}, Data: tensorfile.EncodeFloat64s(weight)},
		{Info: tensorfile.Info{Name: "bias", DType: tensorfile.F64, Shape: []int64{int64(res.Classes)}}, Data: tensorfile.EncodeFloat64s(bias)},
	}, map[string]string{
		"evatool.probe": res.Key, "evatool.classes": string(names), "evatool.model.sha256": res.Model.SHA256,
		"evatool.l2": strconv.FormatFloat(l.model.L2, 'g', -1, 64), "evatool.loss": strconv.FormatFloat(l.model.Loss, 'g', -1, 64),
		"evatool.features": "unit length",
	})
	if err != nil {
		return nil, err
	}
	b, err := readFile(path, "the head just written")
	return &HeadInfo{headFile, digest(b)}, err
}

// readHead reads the head that a result names.
func readHead(dir string, res *ProbeResult) (*learned, error) {
	path := filepath.Join(dir, headFile)
	b, err := readFile(path, "the head of a probe")
	if err != nil {
		return nil, err
	}
	if digest(b) != res.Head.SHA256 {
		return nil, fault.Inputf("%s: is not the head that %s names; run the probe again", fault.Name(path), resultFile)
	}
	f, err := tensorfile.OpenReaderAt(bytes.NewReader(b), int64(len(b)), path)
	if err != nil {
		return nil, err
	}
	weight, _ := findTensor(f, "weight")
	bias, _ := findTensor(f, "bias")
	if weight.DType != tensorfile.F64 || bias.DType != tensorfile.F64 || len(weight.Shape) != 2 || len(bias.Shape) != 1 || weight.Shape[0] != bias.Shape[0] || bias.Shape[0] != int64(res.Classes) {
		return nil, fault.Inputf("%s: want weight [%d,dim] and bias [%d] in F64; run the probe again", fault.Name(path), res.Classes, res.Classes)
	}
	data := map[string][]float64{}
	for _, name := range []string{"weight", "bias"} {
		raw, err := tensorfile.ReadAll(f, name)
		if err != nil {
			return nil, err
		}
		data[name] = tensorfile.DecodeFloat64s(raw)
	}
	l := &learned{model: &logistic.Model{}}
	dim := int(weight.Shape[1])
	for c, b := range data["bias"] {
		if math.IsInf(b, -1) {
			continue
		}
		w := data["weight"][c*dim : (c+1)*dim]
		for _, v := range append([]float64{b}, w...) {
			if v-v != 0 {
				return nil, fault.Inputf("%s: class %d has values that are not finite; run the probe again", fault.Name(path), c)
			}
		}
		l.classes, l.model.W, l.model.B = append(l.classes, c), append(l.model.W, w), append(l.model.B, b)
	}
	if len(l.classes) < 2 {
		return nil, fault.Inputf("%s: has %d classes; a regression needs at least two", fault.Name(path), len(l.classes))
	}
	return l, nil
}

// names are those of the classes, or their numbers.
func (res *ProbeResult) names() []string {
	names := slices.Clone(res.ClassNames)
	for c := len(names); c < res.Classes; c++ {
		names = append(names, strconv.Itoa(c))
	}
	return names
}

// count fills in what follows from the rows.
func (s *ProbeScore) count(t *tally) {
	var res Result
	t.fill(&res)
	s.Top1, s.Top5, s.MeanPerClass, s.N, s.CI95 = res.Top1, res.Top5, res.MeanPerClass, res.N, res.CI95.Top1
	s.Correct1, s.Correct5, s.Ties = res.Correct1, res.Correct5, res.Ties
}

// readProbe reads a probe's result, its head and its rows, from which the counts
// must follow.
func readProbe(dir string) (*ProbeResult, *learned, part, error) {
	p := part{dir: dir}
	path, err := resultOf(dir)
	if err != nil {
		return nil, nil, p, err
	}
	res := &ProbeResult{}
	if err := readJSON(path, "the result of a probe", res); err != nil {
		return nil, nil, p, err
	}
	if res.Probe == nil || res.Head == nil {
		return nil, nil, p, fault.Inputf("%s: no head was kept beside it, so it cannot be verified; run the probe again", fault.Name(path))
	}
	l, err := readHead(dir, res)
	if err != nil {
		return nil, nil, p, err
	}
	t := newTally(res.names())
	p.res = Result{PerClass: t.class, Data: DataInfo{N: res.Data.N + len(res.Data.Skipped), Fingerprint: res.Data.Fingerprint}}
	p.res.Shard = &ShardInfo{0, 1, 0, p.res.Data.N}
	rows := filepath.Join(dir, rowsFile)
	if p.entries, err = readRows(rows, &p.res); err != nil {
		return nil, nil, p, err
	}
	for _, e := range p.entries {
		t.add(e.row)
	}
	now := *res.Probe
	if now.count(t); now != *res.Probe || t.n != res.Data.N {
		return nil, nil, p, fault.Inputf("%s: the counts of the probe do not follow from %s (top-1 is %d of %d there); run it again", fault.Name(path), rowsFile, t.top1, t.n)
	}
	for _, s := range res.Data.Skipped {
		p.entries = append(p.entries, entry{row: row{Index: s.Index, Key: s.Key}, Bad: s.Reason})
	}
	return res, l, p, p.whole()
}

// rows are a set's lines of rows.csv.
func (p *probe) rows(of *featureSet, answers []row) [][]string {
	records := [][]string{rowsHead}
	at := of.indices()
	for i, r := range answers {
		r.Index, r.Key = at[i], of.keys[i]
		records = append(records, entry{row: r}.full())
	}
	return records
}
