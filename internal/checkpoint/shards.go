package checkpoint

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// shardName is Hugging Face's name for part i of n.
var shardName = regexp.MustCompile(`^(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin|pt|pth)$`)

// missingShards says which parts of a model are not among the files, by their
// names; empty when none is.
func missingShards(files []string) string {
	have, want := map[string]bool{}, map[string]int{}
	for _, f := range files {
		m := shardName.FindStringSubmatch(filepath.Base(f))
		if m == nil {
			return ""
		}
		n, _ := strconv.Atoi(m[3])
		want[filepath.Join(filepath.Dir(f), m[1])] = n
		have[m[2]] = true
	}
	if len(want) != 1 {
		return ""
	}
	var lack []string
	for name, n := range want {
		for i := 1; i <= n && len(lack) < 4; i++ {
			if !have[fmt.Sprintf("%05d", i)] {
				lack = append(lack, fmt.Sprintf("shard %d of %d of %s", i, n, name))
			}
		}
	}
	switch len(lack) {
	case 0:
		return ""
	case 1:
		return lack[0] + " is missing"
	}
	return strings.Join(lack, ", ") + " are missing"
}
