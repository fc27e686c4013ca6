package servers_test

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var codeIn = regexp.MustCompile(`error="?([\w.-]+)`)

// said is a refusal of a resource in a phrase: its status and where its code stands.
func said(resp *http.Response) string {
	defer resp.Body.Close()
	code := codeIn.FindStringSubmatch(strings.Join(resp.Header.Values("WWW-Authenticate"), ","))
	if code == nil {
		return fmt.Sprintf("%d without a challenge", resp.StatusCode)
	}
	return fmt.Sprintf("%d `%s`", resp.StatusCode, code[1])
}

// npmVersion is the version that is installed.
func npmVersion(t *testing.T, dir, name string) string {
	text, err := os.ReadFile(filepath.Join(dir, "node_modules", name, "package.json"))
	if err != nil {
		t.Fatal(err)
	}
	var about struct{ Version string }
	json.Unmarshal(text, &about)
	return about.Version
}

// goVersion is the version of a module that a program is built with.
func goVersion(t *testing.T, path, module string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	t.Fatalf("%s is not built with %s", path, module)
	return ""
}
