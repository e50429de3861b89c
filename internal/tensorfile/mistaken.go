package tensorfile

import "bytes"

// Mistaken says what a file is that is often found in place of weights, going by
// its first bytes (512 are enough) and its size; empty if it is none of these.
func Mistaken(head []byte, size int64) string {
	text := bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\ufeff")), " \t\r\n")
	for _, k := range []struct {
		in           []byte
		prefix, what string
	}{
		{text, "version https://git-lfs", "a Git LFS pointer instead of the file (run `git lfs pull`)"},
		{text, "<", "an HTML or XML page, not a checkpoint (the download failed)"},
		{text, "{\"error", "a server's error message, not a checkpoint (the download failed)"},
		{text, "{", "a JSON file, such as a model's configuration, not weights"},
		{head, "GGUF", "a GGUF file"},
		{head, "\x89HDF", "an HDF5 file"},
		{head, "\x1f\x8b", "a gzip file (unpack it first)"},
		{head, "PK\x03\x04", "a zip archive, such as torch.save writes"},
		{head, "PK", "an empty or damaged zip file"},
		{head, "\x80\x02", "a pickle, such as torch.save wrote before 1.6"},
	} {
		if bytes.HasPrefix(k.in, []byte(k.prefix)) {
			return k.what
		}
	}
	switch {
	case size == 0:
		return "an empty file (the download failed)"
	case len(head) > 8 && len(bytes.Trim(head, "\x00")) == 0:
		return "a file of zero bytes (the download failed)"
	}
	return ""
}
