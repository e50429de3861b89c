package runlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
)

// Metrics appends JSON lines to a file such as metrics.jsonl. A line is
// written whole, in one call, so a killed run leaves at most one torn line,
// which the next OpenMetrics removes.
type Metrics struct {
	f *os.File
}

// OpenMetrics opens path for appending. Lines whose "step" is larger than
// keepThrough are dropped (a resumed run writes them again), and so is a torn
// last line. keepThrough < 0 starts an empty file.
func OpenMetrics(path string, keepThrough int64) (*Metrics, error) {
	kept, err := keptLines(path, keepThrough)
	if err != nil {
		return nil, err
	}
	if err := atomicfile.WriteFile(path, kept); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	return &Metrics{f: f}, nil
}

func keptLines(path string, keepThrough int64) ([]byte, error) {
	if keepThrough < 0 {
		return nil, nil
	}
	if err := fault.RegularFile(path, "a run's metrics"); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var kept bytes.Buffer
	for s := bufio.NewReader(bytes.NewReader(old)); ; {
		line, err := s.ReadBytes('\n')
		if err != nil { // torn: no newline
			return kept.Bytes(), nil
		}
		var row struct {
			Step *int64 `json:"step"`
		}
		if json.Unmarshal(line, &row) != nil {
			return kept.Bytes(), nil
		}
		if row.Step == nil || *row.Step <= keepThrough {
			kept.Write(line)
		}
	}
}

// Write appends v as one line.
func (m *Metrics) Write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if _, err := m.f.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", m.f.Name(), err)
	}
	return nil
}

// Sync forces the lines to disk; call it before a checkpoint counts on them.
func (m *Metrics) Sync() error { return m.f.Sync() }

// Close closes the file.
func (m *Metrics) Close() error { return m.f.Close() }
