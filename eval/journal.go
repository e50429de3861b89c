package eval

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
)

// journalFile holds every finished image of a run, so that a run that was
// killed goes on where it was. One JSON value a line: the key, then entries.
const journalFile = "journal.jsonl"

// entry is one image in the journal: a row, or why it was skipped.
type entry struct {
	row
	Bad   string `json:"bad,omitempty"`
	Found *found `json:"f,omitempty"` // where features are kept
}

// fits says whether the row's classes are among n.
func (e entry) fits(n int) bool {
	if e.Bad != "" {
		return true
	}
	for _, c := range e.Top {
		if c < -1 || c >= n {
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
		return nil, nil, fault.Envf("%s: another run is writing into this folder; wait for it, or give another Options.Out", dir)
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
