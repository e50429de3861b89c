package trainer

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/internal/runlog/terminaltest"
)

// A run that waits for disk space says so where a person sees it, above the stopped
// bar, on a terminal of any width.
func TestFullDiskIsSeen(t *testing.T) {
	for _, columns := range []int{60, 100, 220} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			term := terminaltest.Open(t, columns)
			screen := runlog.NewScreen(term.TTY)
			bar := runlog.NewProgress(screen, "train", 10, "steps")
			room, tries := 5, 0
			mustRun(t, tiny(t), Options{
				Out: filepath.Join(t.TempDir(), "run"), Log: runlog.NewLogger(screen, false, false), Phase: bar.Phase,
				Progress: func(s Step) {
					bar.Add(1)
					bar.Note(fmt.Sprintf("loss %.3f", s.Loss))
				},
				fakes: fakes{retry: time.Millisecond, lines: func(path string, keep int64) (jsonLines, error) {
					l, err := openLines(path, keep)
					return fullLines{l, &room, func() {
						if tries++; tries == 3 {
							room = 1 << 40
						}
					}}, err
				}},
			})
			bar.Done()
			waits, bars := 0, 0
			for _, line := range term.Lines(t) {
				switch {
				case strings.Contains(line, "the disk is full") && strings.Contains(line, "the run waits until there is space"):
					waits++
				case strings.HasPrefix(line, "train "):
					bars++
				}
			}
			if waits != 1 || bars != 1 {
				t.Errorf("%d lines about the disk, %d bars; want one of each", waits, bars)
			}
			if !strings.Contains(term.Sent(), "compiling") {
				t.Error("the bar never said that the step compiles")
			}
		})
	}
}
