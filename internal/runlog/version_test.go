package runlog

import "testing"

func TestReleased(t *testing.T) {
	for v, want := range map[string]bool{
		"v1.2.3": true, "v0.1.0": true, "v1.2.3-rc.1": true, "v1.2.3-rc1": true,
		"(devel)": false, "": false, "v0.0.0-20260810062323-62b9be61c9d0": false,
		"v0.1.1-0.20260810062323-62b9be61c9d0": false, "v1.2.3+dirty": false,
	} {
		if got := released.MatchString(v); got != want {
			t.Errorf("%q: a release is %v, want %v", v, got, want)
		}
	}
}

func TestVersions(t *testing.T) {
	defer func(was string) { commit = was }(commit)
	commit = "abc-dirty"
	v := Versions()
	if v["revision"] != "abc" || v["modified"] != "yes" || v["evatool"] == "" || v["go"] == "" || v["cgo"] == "" {
		t.Errorf("%v", v)
	}
	commit = "abc"
	if v := Versions(); v["revision"] != "abc" || v["modified"] != "" {
		t.Errorf("%v", v)
	}
}
