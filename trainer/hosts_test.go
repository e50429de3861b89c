package trainer

import (
	"context"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// TestLauncherIsRefused: processes that a launcher started together do not each
// train the whole recipe into one folder.
func TestLauncherIsRefused(t *testing.T) {
	t.Setenv("PMI_SIZE", "2")
	t.Setenv("PMI_RANK", "1")
	_, err := Run(context.Background(), &Recipe{}, Options{Out: t.TempDir()})
	if fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), "Options.Hosts off") {
		t.Errorf("%v", err)
	}
	if err := (&Options{Hosts: "off"}).check(); err != nil {
		t.Error(err)
	}
}
