package functionshost

// Setting returns a variable of the handler's environment: of this process or,
// where that has none, of local.settings.json. Those that the host itself sets
// for the handler are not among them.
func (h *Host) Setting(name string) string { return h.environ[name] }
