package eval

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// IsSuite says whether a folder holds the result of a suite.
func IsSuite(dir string) bool { return kindOfResult(dir) == "suite" }

// IsRetrieval says whether a folder holds the result of a retrieval.
func IsRetrieval(dir string) bool { return kindOfResult(dir) == "retrieval" }

func kindOfResult(dir string) string {
	var what struct {
		Suite, Set string
		Train      *ProbeSet
	}
	if readJSON(filepath.Join(dir, resultFile), "a result", &what) != nil {
		return ""
	}
	switch {
	case what.Suite != "":
		return "suite"
	case what.Set != "":
		return "retrieval"
	case what.Train != nil:
		return "probe"
	}
	return "set"
}

// MergeSuite combines the parts of a suite, set by set.
func MergeSuite(dirs []string, o MergeOptions) (_ *SuiteResult, err error) {
	defer fault.Public(context.Background(), &err)
	if o.Expect != "" {
		return nil, expectOfSet()
	}
	if err := apart(dirs, o.Out); err != nil {
		return nil, err
	}
	var first *SuiteResult
	for _, dir := range dirs {
		part := &SuiteResult{}
		if err := readJSON(filepath.Join(dir, resultFile), "the result of a suite", part); err != nil {
			return nil, err
		}
		if first == nil {
			first = part
		}
		if part.Suite != first.Suite || len(part.All()) != len(first.All()) {
			return nil, fault.Inputf("%s: is not of the same suite as %s (%s, not %s); merge parts of one run only", dir, dirs[0], part.Suite, first.Suite)
		}
	}
	res := &SuiteResult{Suite: first.Suite, Data: first.Data, Versions: runlog.Versions()}
	for _, m := range first.All() {
		m.Average = 0
		for i := range m.Sets {
			if err := m.Sets[i].merge(dirs, o); err != nil {
				return nil, fmt.Errorf("%s: %w", m.Sets[i].Key, err)
			}
		}
		m.compare(true)
		res.Models = append(res.Models, m)
	}
	res.Pairs = pairs(res.Models)
	return res, res.finish(o.Out)
}

// merge combines the parts of one set.
func (s *SuiteSet) merge(dirs []string, o MergeOptions) error {
	var parts []string
	for _, dir := range dirs {
		if !filepath.IsLocal(s.Dir) {
			return fault.Inputf("%s: its folder %q lies outside it; run the suite again", dir, s.Dir)
		}
		parts = append(parts, filepath.Join(dir, s.Dir))
	}
	if o.Out != "" {
		o.Out = filepath.Join(o.Out, s.Dir)
	}
	if IsRetrieval(parts[0]) {
		res, err := MergeRetrieval(parts, o)
		if err != nil {
			return err
		}
		s.ofRetrieval(res)
		return nil
	}
	res, err := merge(parts, o.Out, o.Force)
	if err != nil {
		return err
	}
	s.ofResult(res)
	return nil
}
