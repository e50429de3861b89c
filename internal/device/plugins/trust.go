package plugins

import (
	"context"
	"encoding/json"
	"path/filepath"

	"github.com/evatool/evatool/internal/digest"
	"github.com/evatool/evatool/internal/fault"
)

// A plugin is code that runs with its user's permissions. Trust says what is known
// about its origin.
type Trust string

// What may be known about a plugin's SHA-256.
const (
	Pinned  Trust = "pinned"  // the one that this program names: tested
	Given   Trust = "given"   // one that the user vouched for at installation
	Changed Trust = "changed" // not the one that was installed
	Unknown Trust = "unknown" // found here: installed with Python, by hand or by an older evatool
)

// recordFile lies beside a plugin that Install put there.
const recordFile = "installed.json"

// record is what Install knows about a plugin.
type record struct {
	Package string `json:"package"`
	Version string `json:"version,omitempty"` // "" for a wheel other than the pinned one
	Wheel   string `json:"wheel_sha256"`
	Library string `json:"library_sha256"`
	By      string `json:"trusted_by"` // pinned, sha256 or trust
}

// readRecord is the record of a plugin, nil when there is none.
func readRecord(plugin string) *record {
	path := filepath.Join(filepath.Dir(plugin), recordFile)
	data, err := fault.ReadFile(path, "a record", 1<<16)
	r := new(record)
	if err != nil || json.Unmarshal(data, r) != nil {
		return nil
	}
	return r
}

// Trust hashes the plugin's file and says what is known about it.
func (p Plugin) Trust() (sha256 string, t Trust, err error) {
	if sha256, err = fileSHA256(p.Path, "a plugin"); err != nil {
		return "", Unknown, err
	}
	for _, r := range releases {
		if sha256 == r.library {
			return sha256, Pinned, nil
		}
	}
	if !p.Installed() {
		return sha256, Unknown, nil
	}
	switch r := readRecord(p.Path); {
	case r == nil:
		return sha256, Unknown, nil
	case r.Library != sha256:
		return sha256, Changed, nil
	default:
		return sha256, Given, nil
	}
}

// fileSHA256 is the SHA-256 of a plain file; want says what it should be.
func fileSHA256(path, want string) (string, error) {
	sum, _, err := digest.File(context.Background(), path, want)
	return sum, err
}
