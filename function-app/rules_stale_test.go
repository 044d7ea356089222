package main

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// Rules that nobody confirms any more hold devices if so set, from the first answer after a restart, too; and decide
// again once their source speaks.
func TestStaleRulesHold(t *testing.T) {
	t.Parallel()
	source := new(offered)
	server := httptest.NewServer(source)
	defer server.Close()
	source.offer(t, "v1", "input.linkedHubs[0]")
	settings := map[string]string{
		settingRules: server.URL + "/rules.tar.gz", settingRulesPoll: "1s", settingRulesCache: filepath.Join(t.TempDir(), "cache"),
		settingRulesMaxAge: "2s", settingRulesStale: staleHold,
	}
	p := startProgram(t, settings)
	until(t, "rules decide", func() bool { status, _ := p.ask("d"); return status == 200 })
	source.packed.Store(nil)
	held := func() bool { status, code := p.ask("d"); return status == 503 && code == "rules_stale" }
	until(t, "the rules are stale", held)
	if line := p.log.wait(t, "rules stale"); line["level"] != "ERROR" {
		t.Errorf("logged %v", line)
	}
	if status, body := p.ready(); status != 503 || !strings.Contains(body, `"stale":true`) || !strings.Contains(body, `"revision":"v1"`) {
		t.Errorf("readiness: %d %s", status, body)
	}
	p.stop()

	p = startProgram(t, settings)
	if !held() {
		t.Error("after a restart, stale rules decide")
	}
	source.offer(t, "v1", "input.linkedHubs[0]")
	until(t, "rules decide again", func() bool { status, _ := p.ask("d"); return status == 200 })
	if status, body := p.ready(); status != 200 || !strings.Contains(body, `"stale":false`) {
		t.Errorf("readiness: %d %s", status, body)
	}
	p.stop()
}
