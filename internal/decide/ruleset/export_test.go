package ruleset

// PerUnit returns options with which at most this many packages are compiled together.
func PerUnit(options Options, packages int) Options {
	options.perUnit = packages
	return options
}

// Compiled returns how many units there are, and how many packages were compiled for them, each as often as it was.
func (rs *Ruleset) Compiled() (units, packages int) {
	for _, u := range rs.units.Load().list {
		packages += len(u.all)
	}
	return len(rs.units.Load().list), packages
}

// IsPrepared reports whether a rule is ready for a request.
func (r *Rule) IsPrepared() bool { return r.prepared.Load() != nil }
