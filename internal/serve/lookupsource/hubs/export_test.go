package hubs

// ParseTable reports whether a table can be read.
func ParseTable(name string, text []byte) (rows int, err error) {
	all, err := parseTable(name, text)
	return len(all), err
}
