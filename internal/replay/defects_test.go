package replay_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each defect recycles chunks too early.
var defects = []struct{ name, file, old, new string }{
	{"lent chunks go back", "chunks.go", `	c.dropped = true
	if c.lent == 0 {`, `	c.dropped = true
	if true {`},
	{"a chunk goes back that a second attempt may need", "recording.go", `if b.wanted() || b.gone`, `if b.gone`},
	{"WriteTo's buffer goes back before it is written", "attempt.go", `	a.read += int64(n)
`, `	a.read += int64(n)
	a.lend(nil)
`},
}

func TestWhatIsRecycledTooEarlyIsFound(t *testing.T) {
	if testing.Short() {
		t.Skip("builds this package's tests once for each defect")
	}
	dir := t.TempDir()
	for _, d := range defects {
		t.Run(d.name, func(t *testing.T) {
			file, _ := filepath.Abs(d.file)
			source, err := os.ReadFile(file)
			if err != nil || !strings.Contains(string(source), d.old) {
				t.Fatalf("%v, or %s no longer has %q", err, d.file, d.old)
			}
			patched, overlay := filepath.Join(dir, d.file), filepath.Join(dir, "overlay.json")
			os.WriteFile(patched, []byte(strings.Replace(string(source), d.old, d.new, 1)), 0o600)
			list, _ := json.Marshal(map[string]any{"Replace": map[string]string{file: patched}})
			os.WriteFile(overlay, list, 0o600)
			program := filepath.Join(dir, "replay.test")
			if out, err := exec.Command("go", "test", "-c", "-tags", "poisoned", "-o", program, "-overlay", overlay, ".").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out, err := exec.Command(program, "-test.run", "^TestNoBytesOfABody|^TestAChunkThatIsRead", "-test.timeout", "1m").CombinedOutput()
			if err == nil {
				t.Errorf("it was not found:\n%s", out)
			}
			t.Logf("%.300s", out)
		})
	}
}
