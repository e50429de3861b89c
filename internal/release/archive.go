package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/evatool/evatool/internal/cli"
)

// file is a member of an archive.
type file struct {
	name string
	mode int64
	data []byte
}

// documents are the completions for the shells and the man pages.
func documents(when time.Time) ([]file, error) {
	root := cli.Command()
	root.DisableAutoGenTag = true
	var files []file
	for _, c := range []struct {
		name  string
		write func(*bytes.Buffer) error
	}{
		{"completions/evatool.bash", func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) }},
		{"completions/_evatool", func(b *bytes.Buffer) error { return root.GenZshCompletion(b) }},
		{"completions/evatool.fish", func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) }},
	} {
		var b bytes.Buffer
		if err := c.write(&b); err != nil {
			return nil, err
		}
		files = append(files, file{c.name, 0o644, b.Bytes()})
	}
	plain(root)
	dir, err := os.MkdirTemp("", "man-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	header := &doc.GenManHeader{Section: "1", Source: "evatool", Manual: "evatool", Date: &when}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return nil, err
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil {
		return nil, err
	}
	for _, p := range pages {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		files = append(files, file{"man/man1/" + filepath.Base(p), 0o644, b})
	}
	return files, nil
}

// plain keeps the man page generator, which reads Markdown, from treating <TAB>
// and *.tar as markup. Indented lines are code to it and need no escapes.
func plain(cmd *cobra.Command) {
	escape := strings.NewReplacer("<", "\\<", "*", "\\*").Replace
	lines := strings.SplitAfter(cmd.Long, "\n")
	for i, l := range lines {
		if !strings.HasPrefix(l, "  ") {
			lines[i] = escape(l)
		}
	}
	cmd.Long = strings.Join(lines, "")
	cmd.Flags().VisitAll(func(f *pflag.Flag) { f.Usage = escape(f.Usage) })
	for _, sub := range cmd.Commands() {
		plain(sub)
	}
}

// writeArchive writes files into a .tar.gz, below one folder. Its bytes depend
// on nothing else.
func writeArchive(path, folder string, files []file, when time.Time) error {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	for _, f := range files {
		h := &tar.Header{Name: folder + "/" + f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: when, Format: tar.FormatUSTAR}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(f.data); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// writeSums writes SHA256SUMS as sha256sum -c reads it.
func writeSums(dir string, names []string) error {
	var sums strings.Builder
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(b), n)
	}
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(sums.String()), 0o644)
}
