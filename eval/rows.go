package eval

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gofrs/flock"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

const (
	resultFile = "result.json"
	rowsFile   = "rows.csv"
	reportFile = "report.html"
)

// maxText is the size up to which tables and lists are read, in bytes.
const maxText = 4 << 30

func readFile(path, want string) ([]byte, error) { return fault.ReadFile(path, want, maxText) }

// rowsHead is the header of rows.csv: the five best classes by id, best first,
// the logit of the best, and 1 where several classes share it.
var rowsHead = []string{"index", "key", "label", "top1", "top2", "top3", "top4", "top5", "logit", "tie"}

// Sets with groups have the metadata too; sets with several labels an image have
// its classes there, and all logits. Numbers are separated by spaces.
var (
	groupsHead = append(slices.Clone(rowsHead), "meta")
	labelsHead = append(slices.Clone(rowsHead), "classes", "logits")
)

// headOf is the header of a set's rows.
func headOf(res *Result) []string {
	switch {
	case res.Kind == dataset.MultiLabel:
		return labelsHead
	case res.Group != nil:
		return groupsHead
	}
	return rowsHead
}

// full is record plus what the kind of set adds.
func (e entry) full() []string {
	rec := e.record()
	if e.Meta != nil || e.Scores != nil {
		rec = append(rec, spaced(e.Meta))
	}
	if e.Scores != nil {
		logits := make([]string, len(e.Scores))
		for i, v := range e.Scores {
			logits[i] = strconv.FormatFloat(float64(v), 'g', -1, 32)
		}
		rec = append(rec, strings.Join(logits, " "))
	}
	return rec
}

func (e entry) record() []string {
	rec := []string{strconv.Itoa(e.Index), e.Key, strconv.Itoa(e.Label)}
	for _, c := range e.Top {
		if c < 0 {
			rec = append(rec, "")
			continue
		}
		rec = append(rec, strconv.Itoa(c))
	}
	tie := "0"
	if e.Tied {
		tie = "1"
	}
	return append(rec, strconv.FormatFloat(float64(e.Logit), 'g', -1, 32), tie)
}

func parseRecord(rec []string) (entry, error) {
	e := entry{row: row{Key: rec[1], Tied: rec[9] == "1"}}
	ints := []struct {
		field string
		dst   *int
	}{{rec[0], &e.Index}, {rec[2], &e.Label}}
	for i := range e.Top {
		e.Top[i] = -1
		if rec[3+i] != "" {
			ints = append(ints, struct {
				field string
				dst   *int
			}{rec[3+i], &e.Top[i]})
		}
	}
	for _, f := range ints {
		v, err := strconv.Atoi(f.field)
		if err != nil {
			return e, err
		}
		*f.dst = v
	}
	logit, err := strconv.ParseFloat(rec[8], 32)
	if err != nil {
		return e, err
	}
	e.Logit = float32(logit)
	if len(rec) > len(rowsHead) {
		if e.Meta, err = parseSpaced(rec[10]); err != nil {
			return e, err
		}
	}
	if len(rec) > len(groupsHead) {
		e.Scores = vector{}
		for _, f := range strings.Fields(rec[11]) {
			v, err := strconv.ParseFloat(f, 32)
			if err != nil || v != v {
				return e, fmt.Errorf("logit %q is not a number", f)
			}
			e.Scores = append(e.Scores, float32(v))
		}
	}
	return e, nil
}

// writeRun writes rows.csv, report.html and, last, result.json, whose
// presence means that the run is complete. picture gives an image's file for the
// report; nil is without pictures.
func writeRun(dir string, res *Result, entries []entry, picture func(i int) []byte) error {
	records, err := recordsOf(res, entries)
	if err != nil {
		return err
	}
	if err := writeCSV(filepath.Join(dir, rowsFile), records); err != nil {
		return err
	}
	if err := writeReport(dir, res, entries, picture); err != nil {
		return err
	}
	return atomicfile.WriteJSON(filepath.Join(dir, resultFile), res)
}

// recordsOf are the lines of rows.csv. A part of a set that is scored from
// features has none: its journal is what merge reads.
func recordsOf(res *Result, entries []entry) ([][]string, error) {
	if res.Kind == dataset.Choice {
		records := [][]string{answersHead}
		if res.Shard != nil {
			return records, nil
		}
		found, err := answers(entries)
		for i, a := range found {
			records = append(records, a.record(i))
		}
		return records, err
	}
	records := [][]string{headOf(res)}
	for _, e := range entries {
		if e.Bad == "" {
			records = append(records, e.full())
		}
	}
	return records, nil
}

// writeCSV writes cells as they are, except for names with characters that a
// terminal would obey: these are quoted, as in messages.
func writeCSV(path string, records [][]string) error {
	var b bytes.Buffer
	for _, r := range records {
		for i := range r {
			r[i] = fault.Name(r[i])
		}
	}
	w := csv.NewWriter(&b)
	if err := w.WriteAll(records); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.WriteFile(path, b.Bytes())
}

// readRows reads a run's rows.csv.
func readRows(path string, res *Result) ([]entry, error) {
	classes := len(res.PerClass)
	records, err := readTable(path, headOf(res))
	if err != nil {
		return nil, err
	}
	out := make([]entry, 0, len(records))
	for i, rec := range records {
		e, err := parseRecord(rec)
		if err != nil {
			return nil, fault.Inputf("%s: line %d: %w", path, i+2, err)
		}
		if g := res.Group; g != nil && (g.Column < 0 || g.Column >= len(e.Meta)) {
			return nil, fault.Inputf("%s: line %d: no group among the metadata %v", path, i+2, e.Meta)
		}
		if !e.fits(classes) {
			return nil, fault.Inputf("%s: line %d: label %d or answers %v are not among the %d classes", path, i+2, e.Label, e.Top, classes)
		}
		out = append(out, e)
	}
	return out, nil
}

// readTable reads the lines below a header.
func readTable(path string, head []string) ([][]string, error) {
	b, err := readFile(path, "the rows.csv of a zero-shot run")
	if err != nil {
		return nil, err
	}
	records, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil {
		return nil, fault.Inputf("%s: %w", path, err)
	}
	if len(records) == 0 || !slices.Equal(records[0], head) {
		return nil, fault.Inputf("%s: not the rows of this result, whose header is %s; run the evaluation again", path, strings.Join(head, ","))
	}
	return records[1:], nil
}

// predictionsHead is the header of Options.Predictions: the five best classes by id
// with their softmax probabilities, and names for people.
var predictionsHead = []string{
	"index", "key", "label", "top1", "top2", "top3", "top4", "top5",
	"prob1", "prob2", "prob3", "prob4", "prob5", "logit", "correct", "label_name", "top1_name",
}

// writePredictions writes one line per image.
func writePredictions(path string, names []string, entries []entry) error {
	records := [][]string{predictionsHead}
	for _, e := range entries {
		if e.Bad != "" {
			continue
		}
		rec := e.record()
		logit := rec[8]
		rec = rec[:8]
		for i, p := range e.Probs {
			s := ""
			if e.Top[i] >= 0 {
				s = strconv.FormatFloat(float64(p), 'g', 6, 32)
			}
			rec = append(rec, s)
		}
		label, correct := "", slices.Contains(e.Meta, e.Top[0]) // of several
		if e.Label >= 0 {
			label, correct = names[e.Label], e.Top[0] == e.Label
		}
		records = append(records, append(rec, logit, strconv.FormatBool(correct), label, names[e.Top[0]]))
	}
	return writeCSV(path, records)
}

// journalFile holds every finished image of a run, so that a run that was
// killed continues where it was. One JSON value a line: the key, then entries.
const journalFile = "journal.jsonl"

// entry is one image in the journal: a row, or why it was skipped.
type entry struct {
	row
	Bad   string `json:"bad,omitempty"`
	Found *found `json:"f,omitempty"` // where features are kept

	seen *seen // of a verification
}

// fits says whether the row's classes are among n.
func (e entry) fits(n int) bool {
	if e.Bad != "" {
		return true
	}
	for i, c := range e.Top {
		if c < -1 || c >= n || c >= 0 && slices.Contains(e.Top[:i], c) {
			return false
		}
	}
	if e.Scores != nil {
		for _, c := range e.Meta {
			if c < 0 || c >= n {
				return false
			}
		}
		return e.Label == -1 && len(e.Scores) == n && e.Top[0] >= 0
	}
	return e.Label >= 0 && e.Label < n && e.Top[0] >= 0
}

type journalHead struct {
	Key string    `json:"key"`
	Of  *identity `json:"of,omitempty"` // what the evaluation is of, for people
}

// journal appends entries to a file. The zero value keeps nothing.
type journal struct {
	f    *os.File
	lock *flock.Flock
}

// openJournal opens dir's journal and returns its entries when it belongs to
// the run with this key; otherwise it begins a new one. A torn last line, as a
// kill leaves it, is cut off.
func openJournal(dir, key string, of *identity, fresh bool) (j *journal, done map[int]entry, err error) {
	path := filepath.Join(dir, journalFile)
	if err := fault.RegularFile(path, "the journal of an evaluation"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	j = &journal{lock: flock.New(path, flock.SetPermissions(0o644))}
	free, err := j.lock.TryLock()
	if err != nil {
		return nil, nil, fault.File(path, "a folder that can be written, as Options.Out", err)
	}
	if !free {
		return nil, nil, fault.Envf("%s: another run is writing to this folder; wait for it, or give another Options.Out", dir)
	}
	if done, err = j.open(path, key, of, fresh); err != nil {
		j.Close()
		return nil, nil, err
	}
	return j, done, nil
}

func (j *journal) open(path, key string, of *identity, fresh bool) (done map[int]entry, err error) {
	old, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	done = map[int]entry{}
	keep := 0
	if !fresh {
		keep, _ = replay(old, key, done)
	}
	if j.f, err = os.OpenFile(path, os.O_RDWR, 0o644); err != nil {
		return nil, err
	}
	return done, j.begin(int64(keep), key, of)
}

// replay reads the entries of a journal with this key and says up to which
// byte it is whole.
func replay(b []byte, key string, done map[int]entry) (keep int, same bool) {
	line, rest, ok := bytes.Cut(b, []byte{'\n'})
	var head journalHead
	if !ok || json.Unmarshal(line, &head) != nil || head.Key != key {
		return 0, false
	}
	keep = len(line) + 1
	for {
		line, tail, ok := bytes.Cut(rest, []byte{'\n'})
		var e entry
		if !ok || json.Unmarshal(line, &e) != nil {
			return keep, true
		}
		done[e.Index] = e
		keep += len(line) + 1
		rest = tail
	}
}

func (j *journal) begin(keep int64, key string, of *identity) error {
	if err := j.f.Truncate(keep); err != nil {
		return err
	}
	if _, err := j.f.Seek(keep, 0); err != nil {
		return err
	}
	if keep > 0 {
		return nil
	}
	b, err := json.Marshal(journalHead{key, of})
	if err != nil {
		return err
	}
	return j.write(append(b, '\n'))
}

// append writes entries and waits until they are on the disk.
func (j *journal) append(entries []entry) error {
	if j.f == nil || len(entries) == 0 {
		return nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, e := range entries {
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	return j.write(b.Bytes())
}

func (j *journal) write(b []byte) error {
	if _, err := j.f.Write(b); err != nil {
		return atomicfile.Explain(j.f.Name(), err)
	}
	return atomicfile.Explain(j.f.Name(), j.f.Sync())
}

// Close also lets the next run in.
func (j *journal) Close() error {
	var err error
	if j.f != nil {
		err = j.f.Close()
	}
	return errors.Join(err, j.lock.Unlock())
}
