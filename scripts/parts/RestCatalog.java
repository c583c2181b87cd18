import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletOutputStream;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.WriteListener;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import jakarta.servlet.http.HttpServletResponseWrapper;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintWriter;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.EnumSet;
import java.util.HashMap;
import java.util.Map;
import org.apache.iceberg.TableMetadata;
import org.apache.iceberg.TableOperations;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.encryption.EncryptionManager;
import org.apache.iceberg.io.FileIO;
import org.apache.iceberg.io.LocationProvider;
import org.apache.iceberg.jdbc.JdbcCatalog;
import org.apache.iceberg.rest.LendingCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.servlet.FilterHolder;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;

/**
 * Iceberg's own REST catalog servlet over its JDBC catalog, on loopback only.
 *
 * <p>usage: RestCatalog PORT FAULTS_DIR KEY=VALUE... where the pairs are the catalog's properties.
 *
 * <p>Every table comes with the keys of the S3 store. A request needs the token that the servlet gives to client id `chainalytics`, as a real server would have it. For tests of answers that never
 * come: a file `lose-answer` in FAULTS_DIR makes the next commit happen and be answered with 504, `refuse` makes it be answered with 503 only. Of commits of
 * several tables, which the servlet moves one after the other: `halt-between` makes it die after the first table, `hold-between` makes it wait there, the
 * file renamed to `held-between`, until that is gone.
 */
public class RestCatalog {
  /** Whether this thread serves a commit of several tables. */
  private static final ThreadLocal<Boolean> SEVERAL = ThreadLocal.withInitial(() -> false);
  private static final String TOKEN = "Bearer client-credentials-token:sub=chainalytics";

  public static void main(String[] args) throws Exception {
    Path faults = Path.of(args[1]);
    Map<String, String> properties = new HashMap<>();
    for (int i = 2; i < args.length; i++) {
      String[] pair = args[i].split("=", 2);
      properties.put(pair[0], pair[1]);
    }
    JdbcCatalog catalog = new FaultyCatalog(faults);
    catalog.initialize(properties.get("name"), properties);

    ServletContextHandler context = new ServletContextHandler(ServletContextHandler.NO_SESSIONS);
    context.addServlet(new ServletHolder(new RESTCatalogServlet(new LendingCatalogAdapter(catalog, properties))), "/*");
    context.addFilter(new FilterHolder((Filter) (request, response, chain) -> serve(faults, request, response, chain)), "/*", EnumSet.of(DispatcherType.REQUEST));
    Server server = new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])));
    server.setHandler(context);
    server.start();
    server.join();
  }

  private static void serve(Path faults, ServletRequest req, ServletResponse res, FilterChain chain) throws IOException, ServletException {
    HttpServletRequest request = (HttpServletRequest) req;
    HttpServletResponse response = (HttpServletResponse) res;
    String path = request.getRequestURI();
    if (!path.endsWith("/oauth/tokens") && !TOKEN.equals(request.getHeader("Authorization"))) {
      response.setStatus(401);
      response.setContentType("application/json");
      response.getOutputStream().write("{\"error\":{\"message\":\"no valid token\",\"type\":\"NotAuthorizedException\",\"code\":401}}".getBytes());
      return;
    }
    SEVERAL.set(path.endsWith("/transactions/commit"));
    boolean commit = request.getMethod().equals("POST") && (path.contains("/tables/") && !path.endsWith("/rename") || path.endsWith("/transactions/commit"));
    if (commit && Files.deleteIfExists(faults.resolve("refuse"))) {
      response.sendError(503);
    } else if (commit && Files.deleteIfExists(faults.resolve("lose-answer"))) {
      chain.doFilter(request, new Swallowed(response));
      response.reset();
      response.sendError(504);
    } else {
      chain.doFilter(request, response);
    }
  }

  /** May stop after a table that it has moved for a commit of several. */
  private static final class FaultyCatalog extends JdbcCatalog {
    private final Path faults;

    FaultyCatalog(Path faults) {
      this.faults = faults;
    }

    @Override
    protected TableOperations newTableOps(TableIdentifier identifier) {
      return new FaultyOperations(super.newTableOps(identifier), faults);
    }
  }

  private record FaultyOperations(TableOperations own, Path faults) implements TableOperations {
    @Override
    public void commit(TableMetadata base, TableMetadata metadata) {
      own.commit(base, metadata);
      if (!SEVERAL.get()) {
        return;
      }
      try {
        if (Files.deleteIfExists(faults.resolve("halt-between"))) {
          Runtime.getRuntime().halt(137);
        }
        Path held = faults.resolve("held-between");
        if (Files.exists(faults.resolve("hold-between"))) {
          Files.move(faults.resolve("hold-between"), held);
        }
        while (Files.exists(held)) {
          Thread.sleep(10);
        }
      } catch (IOException | InterruptedException e) {
        throw new IllegalStateException(e);
      }
    }

    @Override
    public TableMetadata current() {
      return own.current();
    }

    @Override
    public TableMetadata refresh() {
      return own.refresh();
    }

    @Override
    public FileIO io() {
      return own.io();
    }

    @Override
    public EncryptionManager encryption() {
      return own.encryption();
    }

    @Override
    public String metadataFileLocation(String fileName) {
      return own.metadataFileLocation(fileName);
    }

    @Override
    public LocationProvider locationProvider() {
      return own.locationProvider();
    }

    @Override
    public TableOperations temp(TableMetadata uncommitted) {
      return own.temp(uncommitted);
    }

    @Override
    public long newSnapshotId() {
      return own.newSnapshotId();
    }
  }

  /** Takes an answer and keeps it to itself. */
  private static final class Swallowed extends HttpServletResponseWrapper {
    Swallowed(HttpServletResponse response) {
      super(response);
    }

    @Override
    public PrintWriter getWriter() {
      return new PrintWriter(OutputStream.nullOutputStream());
    }

    @Override
    public ServletOutputStream getOutputStream() {
      return new ServletOutputStream() {
        @Override
        public boolean isReady() {
          return true;
        }

        @Override
        public void setWriteListener(WriteListener listener) {}

        @Override
        public void write(int b) {}
      };
    }
  }
}
