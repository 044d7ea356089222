package pki

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// The ports that device SDKs use; most SDKs cannot be configured to use others.
const (
	httpsPort = 443
	mqttPort  = 8883
)

// SDKLines say how to make one SDK trust and find the stand-in.
type SDKLines struct {
	SDK   string   // "Node", "Python", "C", "C#", "Java"
	Lines []string // code or shell, one line each, with the file and ports filled in: trust, registration, hub
	Needs string   // what does not work on the given ports, and the workaround; "" if everything works
}

// TrustLines returns the lines for the five SDKs. caFile is the path of the authority's certificate; httpsAt and mqttAt
// are the ports on which the stand-in listens.
func TrustLines(caFile string, httpsAt, mqttAt int) []SDKLines {
	if full, err := filepath.Abs(caFile); err == nil {
		caFile = full // the lines go into programs that run in other folders
	}
	mqttHost := withPort("localhost", mqttAt, mqttPort)
	fixed := ""
	switch {
	case httpsAt != httpsPort && mqttAt != mqttPort:
		fixed = fmt.Sprintf("its ports %d and %d are fixed: redirect them to %d and %d (firewall rule, container -p)", httpsPort, mqttPort, httpsAt, mqttAt)
	case httpsAt != httpsPort:
		fixed = fmt.Sprintf("its port %d for HTTP and WebSocket is fixed: use MQTT, or redirect %d to %d (firewall rule, container -p)", httpsPort, httpsPort, httpsAt)
	case mqttAt != mqttPort:
		fixed = fmt.Sprintf("its port %d for MQTT is fixed: use WebSocket or HTTP, or redirect %d to %d (firewall rule, container -p)", mqttPort, mqttPort, mqttAt)
	}
	node := ""
	if httpsAt != httpsPort {
		node = fmt.Sprintf("port %d is fixed for Http and MqttWs, whatever the host says: use Mqtt, or the preload below, which redirects %[1]d to %d", httpsPort, httpsAt)
	}
	hubPorts := ""
	if mqttAt != mqttPort {
		hubPorts = fmt.Sprintf("for the hub its port %d is fixed: redirect it to %d (firewall rule, container -p)", mqttPort, mqttAt)
	}
	return []SDKLines{
		{"Node", []string{
			"export NODE_EXTRA_CA_CERTS=" + shellQuote(caFile),
			fmt.Sprintf("const provisioningHost = '%s' // Mqtt; 'localhost' for Http and MqttWs", mqttHost),
			fmt.Sprintf("const hub = `HostName=${result.assignedHub};GatewayHostName=%s;DeviceId=...` // with a key; with X.509 the SDK ignores GatewayHostName", mqttHost),
		}, node},
		{"Python", []string{
			fmt.Sprintf("ca = open(%s).read()", strconv.Quote(caFile)),
			`ProvisioningDeviceClient.create_from_symmetric_key(provisioning_host="localhost", server_verification_cert=ca, ...)`,
			`IoTHubDeviceClient.create_from_symmetric_key(hostname=result.registration_state.assigned_hub, gateway_hostname="localhost", server_verification_cert=ca, ...)`,
		}, fixed},
		{"C", []string{
			fmt.Sprintf("// pem: the content of %s", caFile),
			`Prov_Device_LL_Create("localhost", id_scope, Prov_Device_MQTT_Protocol);`,
			"Prov_Device_LL_SetOption(handle, OPTION_TRUSTED_CERT, pem);",
			`IoTHubDeviceClient_LL_CreateFromConnectionString("HostName=<assigned hub>;GatewayHostName=localhost;DeviceId=...;SharedAccessKey=...", MQTT_Protocol);`,
			"IoTHubDeviceClient_LL_SetOption(hub, OPTION_TRUSTED_CERT, pem);",
		}, fixed},
		{"C#", []string{
			fmt.Sprintf("sudo cp %s /usr/local/share/ca-certificates/usher-dps.crt && sudo update-ca-certificates", shellQuote(caFile)),
			fmt.Sprintf(`ProvisioningDeviceClient.Create("localhost", idScope, security, new ProvisioningTransportHandlerMqtt(TransportFallbackType.TcpOnly) { Port = %d })`, mqttAt),
			fmt.Sprintf(`ProvisioningDeviceClient.Create("localhost", idScope, security, new ProvisioningTransportHandlerHttp { Port = %d })`, httpsAt),
			`DeviceClient.Create(result.AssignedHub, "localhost", authentication, TransportType.Mqtt_Tcp_Only) // the second is the GatewayHostName`,
		}, hubPorts},
		{"Java", []string{
			fmt.Sprintf("keytool -importcert -noprompt -alias usher-dps -file %s -keystore usher-dps.jks -storepass changeit", shellQuote(caFile)),
			"java -Djavax.net.ssl.trustStore=usher-dps.jks -Djavax.net.ssl.trustStorePassword=changeit ...",
			`ProvisioningDeviceClient.create("localhost", idScope, ProvisioningDeviceClientTransportProtocol.MQTT, security)`,
			`ProvisioningDeviceClient.create("localhost", idScope, ProvisioningDeviceClientTransportProtocol.HTTPS, security)`,
			`new DeviceClient("HostName=" + result.getIothubUri() + ";GatewayHostName=localhost;DeviceId=...;SharedAccessKey=...", IotHubClientProtocol.MQTT)`,
		}, fixed},
	}
}

func withPort(host string, port, byDefault int) string {
	if port == byDefault {
		return host
	}
	return host + ":" + strconv.Itoa(port)
}

var plainPath = regexp.MustCompile(`^[A-Za-z0-9/._-]+$`)

// shellQuote quotes a path for a POSIX shell, if it needs that.
func shellQuote(path string) string {
	if plainPath.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
