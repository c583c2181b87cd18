package org.apache.iceberg.rest;

import java.util.HashMap;
import java.util.Map;
import org.apache.iceberg.catalog.Catalog;
import org.apache.iceberg.rest.responses.LoadTableResponse;

/** Sends the store's keys along with every table, as servers do that vend credentials. In this package because its routes are not public. */
public class LendingCatalogAdapter extends RESTCatalogAdapter {
  private final Map<String, String> config = new HashMap<>();

  public LendingCatalogAdapter(Catalog catalog, Map<String, String> properties) {
    super(catalog);
    properties.forEach((key, value) -> {
      if (key.startsWith("s3.")) {
        config.put(key, value);
      }
    });
  }

  @Override
  public <T extends RESTResponse> T handleRequest(Route route, Map<String, String> vars, Object body, Class<T> type) {
    T response = super.handleRequest(route, vars, body, type);
    if (response instanceof LoadTableResponse table) {
      return castResponse(type, LoadTableResponse.builder().withTableMetadata(table.tableMetadata()).addAllConfig(config).build());
    }
    return response;
  }
}
