package trainer

import (
	"context"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// TestHosts: processes that were started together and cannot find each other do
// not each train the whole recipe into one folder.
func TestHosts(t *testing.T) {
	t.Setenv("SLURM_STEP_NUM_TASKS", "2")
	_, err := Run(context.Background(), &Recipe{}, Options{Out: t.TempDir()})
	if fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), "Options.Hosts off") {
		t.Errorf("%v", err)
	}
	if err := (&Options{Hosts: "off"}).check(); err != nil {
		t.Error(err)
	}
}
