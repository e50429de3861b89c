package img

import "strings"

// looksLike names what is often found in place of an image. The message does not
// show the bytes: a table may name any file.
func looksLike(data []byte) string {
	head := strings.ToLower(strings.TrimSpace(string(data[:min(len(data), 64)])))
	switch {
	case strings.HasPrefix(head, "<!doctype html"), strings.HasPrefix(head, "<html"):
		return " but an HTML page, such as a server's error page"
	case strings.HasPrefix(head, "version https://git-lfs"):
		return " but a Git LFS pointer; fetch the file with git lfs pull"
	}
	return ""
}
