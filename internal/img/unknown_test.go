package img

import (
	"strings"
	"testing"
)

// What is no image is named, never shown: a table may name any file.
func TestNoContentInMessages(t *testing.T) {
	for data, want := range map[string]string{
		"root:x:0:0:root:/root:/bin/bash\n":                      "not an image that evatool can read; use",
		"<!DOCTYPE html><title>404</title>":                      "but an HTML page",
		"version https://git-lfs.github.com/spec/v1\noid sha256": "but a Git LFS pointer",
	} {
		_, err := Decode([]byte(data))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "root") {
			t.Errorf("%q: %v", data, err)
		}
	}
}
