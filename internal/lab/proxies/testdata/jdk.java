import com.sun.net.httpserver.*;
import java.io.*;
import java.net.InetSocketAddress;
import java.nio.file.*;
import java.security.*;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.*;
import java.util.concurrent.Executors;
import javax.net.ssl.*;

class Upload {
	public static void main(String[] args) throws Exception {
		serve(HttpServer.create(new InetSocketAddress("127.0.0.1", {{port (http "plain")}}), 128));
		HttpsServer tls = HttpsServer.create(new InetSocketAddress("127.0.0.1", {{port (https "plain")}}), 128);
		tls.setHttpsConfigurator(new HttpsConfigurator(context()));
		serve(tls);
	}

	static void serve(HttpServer server) {
		server.setExecutor(Executors.newCachedThreadPool());
		server.createContext("/", Upload::answer);
		server.start();
	}

	static void answer(HttpExchange exchange) throws IOException {
		try (exchange) {
			Headers headers = exchange.getRequestHeaders();
			InputStream body = exchange.getRequestBody();
			if (headers.getFirst("Authorization").endsWith("stale")) {
				String after = headers.getFirst("Refuse-After"), length = headers.getFirst("Refusal-Length");
				read(body, after == null ? Long.MAX_VALUE : Long.parseLong(after), null);
				send(exchange, 401, new byte[length == null ? 0 : Integer.parseInt(length)]);
				return;
			}
			MessageDigest hash = MessageDigest.getInstance("SHA-256");
			read(body, Long.MAX_VALUE, hash);
			send(exchange, 200, HexFormat.of().formatHex(hash.digest()).getBytes());
		} catch (GeneralSecurityException e) {
			throw new IOException(e);
		}
	}

	static void read(InputStream body, long n, MessageDigest hash) throws IOException {
		byte[] buffer = new byte[65536];
		while (n > 0) {
			int got = body.read(buffer);
			if (got < 0) return;
			if (hash != null) hash.update(buffer, 0, got);
			n -= got;
		}
	}

	static void send(HttpExchange exchange, int status, byte[] text) throws IOException {
		exchange.sendResponseHeaders(status, text.length == 0 ? -1 : text.length);
		if (text.length > 0) exchange.getResponseBody().write(text);
	}

	static SSLContext context() throws Exception {
		Certificate cert;
		try (InputStream in = new FileInputStream("{{dir}}/cert.pem")) {
			cert = CertificateFactory.getInstance("X.509").generateCertificate(in);
		}
		String pem = Files.readString(Path.of("{{dir}}/key.pem")).replaceAll("-----.*-----|\\s", "");
		PrivateKey key = KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem)));
		KeyStore store = KeyStore.getInstance("PKCS12");
		store.load(null, null);
		store.setKeyEntry("key", key, new char[0], new Certificate[]{cert});
		KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
		keys.init(store, new char[0]);
		SSLContext context = SSLContext.getInstance("TLS");
		context.init(keys.getKeyManagers(), null, null);
		return context;
	}
}
